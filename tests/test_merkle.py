"""The tree against the recursion of RFC 6962, written here as the text has it; known answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from math import ceil, log2

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sectionfour.privacy import merkle

LARGEST = 70  # every size up to this one is tried; it passes 64, so all shapes up to 7 levels occur


# RFC 6962, section 2.1, on the raw entries


def mth(d: Sequence[bytes]) -> bytes:
    if not d:
        return sha256(b"").digest()
    if len(d) == 1:
        return sha256(b"\x00" + d[0]).digest()
    k = below(len(d))
    return sha256(b"\x01" + mth(d[:k]) + mth(d[k:])).digest()


def path(m: int, d: Sequence[bytes]) -> list[bytes]:
    if len(d) == 1:
        return []
    k = below(len(d))
    if m < k:
        return [*path(m, d[:k]), mth(d[k:])]
    return [*path(m - k, d[k:]), mth(d[:k])]


def proof(m: int, d: Sequence[bytes]) -> list[bytes]:
    return subproof(m, d, True)


def subproof(m: int, d: Sequence[bytes], whole: bool) -> list[bytes]:
    if m == len(d):
        return [] if whole else [mth(d)]
    k = below(len(d))
    if m <= k:
        return [*subproof(m, d[:k], whole), mth(d[k:])]
    return [*subproof(m - k, d[k:], False), mth(d[:k])]


def below(n: int) -> int:
    """The largest power of two smaller than n."""
    k = 1
    while k * 2 < n:
        k *= 2
    return k


# Builders


ENTRIES = [b"entry %d" % i for i in range(LARGEST)]
HASHES = [merkle.leaf_hash(entry) for entry in ENTRIES]


@cache
def root_of(size: int) -> bytes:
    return mth(ENTRIES[:size])


class Nodes(dict[tuple[int, int], bytes]):
    """A store of complete nodes that counts what is asked of it, and takes a node only once."""

    asked = 0

    def get_node(self, level: int, index: int) -> bytes:
        self.asked += 1
        return self[level, index]

    def append(self, leaf_hashes: Sequence[bytes]) -> None:
        size = sum(1 for level, _ in self if level == 0)
        for level, index, digest in merkle.new_nodes(size, leaf_hashes, self.get_node):
            assert (level, index) not in self
            self[level, index] = digest


def grown(leaf_hashes: Sequence[bytes], batch: int) -> Nodes:
    nodes = Nodes()
    for start in range(0, len(leaf_hashes), batch):
        nodes.append(leaf_hashes[start : start + batch])
    return nodes


def unhex(*words: str) -> list[bytes]:
    return [bytes.fromhex(word) for word in words]


# Known answers: the eight entries and the figures that the Certificate Transparency code is tested
# with (leaf positions counted from 0 here)

EIGHT = unhex(
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
)
ROOTS = unhex(
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
LEFT_HALF_FROM_0 = unhex(
    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
)
KNOWN_PATHS = {
    (0, 1): [],
    (0, 8): LEFT_HALF_FROM_0,
    (5, 8): unhex(
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 3): unhex("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
    (1, 5): unhex(
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}
KNOWN_GROWTH = {
    (1, 1): [],
    (1, 8): LEFT_HALF_FROM_0,
    (6, 8): unhex(
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 5): unhex(
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}


@pytest.mark.parametrize("size", range(9))
def test_the_root_of_the_first_known_entries_is_the_known_one(size: int):
    assert merkle.root([merkle.leaf_hash(entry) for entry in EIGHT[:size]]) == ROOTS[size]
    assert mth(EIGHT[:size]) == ROOTS[size]


@pytest.mark.parametrize(("index", "size"), KNOWN_PATHS)
def test_a_known_path_is_given_and_taken(index: int, size: int):
    hashes = [merkle.leaf_hash(entry) for entry in EIGHT[:size]]
    known = KNOWN_PATHS[index, size]
    assert merkle.inclusion_proof(index, hashes) == known
    assert merkle.verify_inclusion(hashes[index], index, size, known, ROOTS[size])


@pytest.mark.parametrize(("old", "new"), KNOWN_GROWTH)
def test_a_known_growth_is_given_and_taken(old: int, new: int):
    hashes = [merkle.leaf_hash(entry) for entry in EIGHT[:new]]
    known = KNOWN_GROWTH[old, new]
    assert merkle.consistency_proof(old, hashes) == known
    assert merkle.verify_consistency(old, new, ROOTS[old], ROOTS[new], known)


def test_the_worked_example_of_the_rfc_comes_out():
    """RFC 6962, section 2.1.3: seven leaves, with its letters for the nodes."""
    a, b, c, d, e, f, j = HASHES[:7]
    g, h, i = merkle.node_hash(a, b), merkle.node_hash(c, d), merkle.node_hash(e, f)
    k, l = merkle.node_hash(g, h), merkle.node_hash(i, j)  # noqa: E741, the RFC's letter
    seven = HASHES[:7]
    assert merkle.root(seven) == merkle.node_hash(k, l)
    assert merkle.inclusion_proof(0, seven) == [b, h, l]
    assert merkle.inclusion_proof(3, seven) == [c, g, l]
    assert merkle.inclusion_proof(4, seven) == [f, j, k]
    assert merkle.inclusion_proof(6, seven) == [i, k]
    assert merkle.consistency_proof(3, seven) == [c, d, g, l]
    assert merkle.consistency_proof(4, seven) == [l]
    assert merkle.consistency_proof(6, seven) == [i, j, k]


# Against the recursion


def test_every_tree_and_every_place_in_it_is_as_the_recursion_has_it():
    for size in range(1, LARGEST + 1):
        assert merkle.root(HASHES[:size]) == root_of(size)
        for index in range(size):
            found = merkle.inclusion_proof(index, HASHES[:size])
            assert found == path(index, ENTRIES[:size])
            assert merkle.verify_inclusion(HASHES[index], index, size, found, root_of(size))


def test_every_growth_is_as_the_recursion_has_it():
    for new in range(1, LARGEST + 1):
        for old in range(1, new + 1):
            found = merkle.consistency_proof(old, HASHES[:new])
            assert found == proof(old, ENTRIES[:new])
            assert merkle.verify_consistency(old, new, root_of(old), root_of(new), found)


def test_a_grown_log_answers_for_every_size_that_it_ever_had():
    nodes = grown(HASHES, batch=3)
    for size in range(LARGEST + 1):
        assert merkle.root_at(size, nodes.get_node) == root_of(size)
        for other in range(size):
            assert merkle.inclusion_at(other, size, nodes.get_node) == path(other, ENTRIES[:size])
        for old in range(1, size + 1):
            expected = proof(old, ENTRIES[:size])
            assert merkle.consistency_at(old, size, nodes.get_node) == expected


@settings(deadline=None)
@given(st.lists(st.lists(st.binary(max_size=40), max_size=40), max_size=12), st.data())
def test_batches_of_any_length_make_the_tree_of_the_whole(batches, data):
    nodes, entries = Nodes(), []
    for batch in batches:
        nodes.append([merkle.leaf_hash(entry) for entry in batch])
        entries += batch
    size = len(entries)
    whole = {
        (level, index): mth(entries[index << level : (index + 1) << level])
        for level in range(size.bit_length())
        for index in range(size >> level)
    }
    assert nodes == whole
    assert merkle.root_at(size, nodes.get_node) == mth(entries)
    if entries:
        index = data.draw(st.integers(0, size - 1))
        assert merkle.inclusion_at(index, size, nodes.get_node) == path(index, entries)
        old = data.draw(st.integers(1, size))
        assert merkle.consistency_at(old, size, nodes.get_node) == proof(old, entries)


@pytest.mark.parametrize("size", [1, 2, 1000, 4095, 4096, 4097, 10_000])
def test_a_large_log_is_asked_for_few_nodes(size: int):
    nodes = grown([merkle.leaf_hash(b"%d" % i) for i in range(size)], batch=2500)
    few = 2 * ceil(log2(size)) + 2
    for call in (
        lambda get: merkle.root_at(size, get),
        lambda get: merkle.inclusion_at(size // 3, size, get),
        lambda get: merkle.consistency_at(max(1, size // 3), size, get),
        lambda get: merkle.new_nodes(size, [bytes(32)] * 7, get),
    ):
        nodes.asked = 0
        call(nodes.get_node)
        assert nodes.asked <= few


# What must not pass


def test_an_inclusion_proof_holds_for_its_own_leaf_place_and_root_only():
    for size in range(1, 34):
        root = root_of(size)
        for index in range(size):
            leaf, good = HASHES[index], merkle.inclusion_proof(index, HASHES[:size])
            for place in {*range(-2, size + 2), index ^ 2, index * 2} - {index}:
                assert not merkle.verify_inclusion(leaf, place, size, good, root)
            assert not merkle.verify_inclusion(HASHES[size], index, size, good, root)
            assert not merkle.verify_inclusion(leaf, index, size, good, root_of(size + 1))
            for bad in not_quite(good, root):
                assert not merkle.verify_inclusion(leaf, index, size, bad, root)


def test_a_consistency_proof_holds_for_its_own_roots_only():
    for new in range(1, 34):
        for old in range(1, new + 1):
            good = merkle.consistency_proof(old, HASHES[:new])
            before, after = root_of(old), root_of(new)
            assert not merkle.verify_consistency(new, old, before, after, good) or old == new
            assert not merkle.verify_consistency(old, new, before, root_of(new + 1), good)
            assert not merkle.verify_consistency(old, new, root_of(old + 1), after, good)
            assert not merkle.verify_consistency(old, new, after, before, good) or old == new
            for wrong in {0, old - 1, old + 1, old ^ 2} - {old}:
                assert not merkle.verify_consistency(wrong, new, before, after, good)
            for bad in not_quite(good, after):
                assert not merkle.verify_consistency(old, new, before, after, bad)


def not_quite(good: list[bytes], root: bytes):
    """Every near miss of a proof: a node more, a node less, nodes swapped, cut or joined."""
    yield [*good, root]
    yield [root, *good]
    yield [*good, b""]
    yield [b"", *good]
    for at, node in enumerate(good):
        yield good[:at] + good[at + 1 :]
        yield [*good[:at], node, *good[at:]]
        yield [*good[:at], merkle.EMPTY_ROOT, *good[at + 1 :]]
        yield [*good[:at], node[:-1], *good[at + 1 :]]
        yield [*good[:at], node + b"\x00", *good[at + 1 :]]
        if at:
            yield [*good[: at - 1], node, good[at - 1], *good[at + 1 :]]
            yield [*good[: at - 1], good[at - 1] + node, *good[at + 1 :]]


def test_no_byte_of_a_proof_can_be_changed():
    for size in (2, 3, 7, 8, 13):
        for index in range(size):
            good = merkle.inclusion_proof(index, HASHES[:size])
            for bad in one_byte_off(good):
                assert not merkle.verify_inclusion(HASHES[index], index, size, bad, root_of(size))
        for old in range(1, size):
            good = merkle.consistency_proof(old, HASHES[:size])
            for bad in one_byte_off(good):
                assert not merkle.verify_consistency(old, size, root_of(old), root_of(size), bad)


def one_byte_off(good: list[bytes]):
    for at, node in enumerate(good):
        for byte in range(len(node)):
            for flip in (0x01, 0x80, 0xFF):
                changed = node[:byte] + bytes([node[byte] ^ flip]) + node[byte + 1 :]
                yield [*good[:at], changed, *good[at + 1 :]]


def test_a_border_moved_between_two_hashes_is_not_a_leaf():
    """Without a check of lengths, 31 bytes and 33 bytes would hash as 32 and 32 do."""
    left, right = HASHES[:2]
    root = merkle.root([left, right])
    assert merkle.node_hash(left[:-1], left[-1:] + right) == root
    assert not merkle.verify_inclusion(left[:-1], 0, 2, [left[-1:] + right], root)
    assert not merkle.verify_consistency(1, 2, left[:-1], root, [left[-1:] + right])


def test_from_the_empty_tree_everything_grows_without_a_proof():
    empty, three = merkle.EMPTY_ROOT, root_of(3)
    assert merkle.consistency_proof(0, HASHES[:3]) == []
    assert merkle.verify_consistency(0, 3, empty, three, [])
    assert merkle.verify_consistency(0, 0, empty, empty, [])
    assert not merkle.verify_consistency(0, 0, empty, three, [])
    assert not merkle.verify_consistency(0, 3, three, three, [])
    assert not merkle.verify_consistency(0, 3, empty, three, [three])


def test_a_leaf_is_never_mistaken_for_an_inner_node():
    left, right = HASHES[:2]
    assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_no_path_leads_to_a_leaf_outside_the_tree(index: int, size: int):
    with pytest.raises(ValueError, match=f"leaf {index} is not in a tree of {size}"):
        merkle.inclusion_proof(index, HASHES[:size])
    assert not merkle.verify_inclusion(HASHES[0], index, size, [], root_of(size))


def test_a_tree_does_not_grow_out_of_a_larger_one():
    with pytest.raises(ValueError, match="a tree of 3 did not grow out of 4"):
        merkle.consistency_proof(4, HASHES[:3])
    assert not merkle.verify_consistency(4, 3, root_of(4), root_of(3), [])


def test_a_size_below_nothing_is_refused():
    nodes = Nodes()
    with pytest.raises(ValueError, match="0 leaves or more"):
        merkle.root_at(-1, nodes.get_node)
    with pytest.raises(ValueError, match="0 leaves or more"):
        merkle.new_nodes(-1, HASHES, nodes.get_node)


def test_appending_nothing_makes_no_node():
    assert merkle.new_nodes(5, [], Nodes().get_node) == []
