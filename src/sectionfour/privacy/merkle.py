"""RFC 6962 Merkle trees over SHA-256: roots, inclusion proofs and consistency proofs.

Pure functions over bytes: no clock, no I/O, no key, no text format (those are in notes.py). A
hash is 32 bytes everywhere; an index counts leaves from 0; a size is a number of leaves.

A log that grows keeps its *complete* subtrees as nodes: (level, index) -> hash, where level 0 holds
the leaf hashes and node (level, index) covers the 2**level leaves from index * 2**level on. Such a
node never changes again, so appending only ever adds nodes (`new_nodes`), and the root and every
proof, of this size or of any earlier one, need O(log n) of them (`root_at`, `inclusion_at`,
`consistency_at`). `root`, `inclusion_proof` and `consistency_proof` do the same for a
list of leaf hashes held in memory.

Source: RFC 6962, section 2.1; how a proof is checked follows from the same recursion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

HASH_BYTES = 32
EMPTY_ROOT = sha256().digest()

Node = tuple[int, int, bytes]
"""One complete subtree: level, index, hash."""

Get = Callable[[int, int], bytes]
"""Looks up the hash of the complete subtree at (level, index)."""


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of one entry; the prefix 0x00 keeps it apart from every inner node."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node over its two children."""
    return sha256(b"\x01" + left + right).digest()


# A list in memory


def root(leaf_hashes: Sequence[bytes]) -> bytes:
    """Return the root of the tree over `leaf_hashes`; of no leaf, SHA-256 of nothing."""
    return root_at(len(leaf_hashes), _in_memory(leaf_hashes))


def inclusion_proof(index: int, leaf_hashes: Sequence[bytes]) -> list[bytes]:
    """Return the audit path of leaf `index`, from its sibling up to a child of the root."""
    return inclusion_at(index, len(leaf_hashes), _in_memory(leaf_hashes))


def consistency_proof(old_size: int, leaf_hashes: Sequence[bytes]) -> list[bytes]:
    """Return the proof that the tree over the first `old_size` leaves grew into the whole one."""
    return consistency_at(old_size, len(leaf_hashes), _in_memory(leaf_hashes))


# A log that grows


def new_nodes(size_before: int, leaf_hashes: Sequence[bytes], get: Get) -> list[Node]:
    """Return every node that is complete once `leaf_hashes` follow the first `size_before` leaves.

    The leaves themselves come first, as level 0, then level after level, left to right. `get` is
    asked for at most one node a level: the left half of a subtree that the new leaves complete.
    """
    _require(size_before >= 0, f"a tree has 0 leaves or more, got {size_before}")
    nodes: list[Node] = []
    level, start, row = 0, size_before, list(leaf_hashes)
    while row:
        nodes += [(level, index, digest) for index, digest in enumerate(row, start)]
        if start % 2:
            row.insert(0, get(level, start - 1))
        # strict=False: the last of an odd row waits for a sibling
        row = [node_hash(left, right) for left, right in zip(row[::2], row[1::2], strict=False)]
        level, start = level + 1, start // 2
    return nodes


def root_at(size: int, get: Get) -> bytes:
    """Return the root of the tree over the first `size` leaves of the log."""
    _require(size >= 0, f"a tree has 0 leaves or more, got {size}")
    return _subtree(0, size, get) if size else EMPTY_ROOT


def inclusion_at(index: int, size: int, get: Get) -> list[bytes]:
    """Return the audit path of leaf `index` in the tree over the first `size` leaves.

    Raises ValueError when the leaf is not in that tree.
    """
    _require(0 <= index < size, f"leaf {index} is not in a tree of {size}")
    path: list[bytes] = []
    low, high = 0, size
    while high - low > 1:
        middle = _split(low, high)
        if index < middle:
            path.append(_subtree(middle, high, get))
            high = middle
        else:
            path.append(_subtree(low, middle, get))
            low = middle
    return path[::-1]


def consistency_at(old_size: int, new_size: int, get: Get) -> list[bytes]:
    """Return the proof that the tree of `old_size` leaves is the beginning of that of `new_size`.

    It is empty between equal sizes, and from the empty tree, where there is nothing to show.
    Raises ValueError when the old tree is larger than the new one.
    """
    _require(0 <= old_size <= new_size, f"a tree of {new_size} did not grow out of {old_size}")
    if not old_size:
        return []
    proof: list[bytes] = []
    low, high = 0, new_size
    while high != old_size:
        middle = _split(low, high)
        if old_size <= middle:
            proof.append(_subtree(middle, high, get))
            high = middle
        else:
            proof.append(_subtree(low, middle, get))
            low = middle
    if low:  # otherwise this subtree is the whole old tree, whose root the verifier holds
        proof.append(_subtree(low, high, get))
    return proof[::-1]


def packed(leaf_hashes: bytes) -> Get:
    """Return the look-up of every complete subtree over `leaf_hashes`, laid end to end.

    For logs too long for an object a hash: it holds 64 bytes a leaf.
    """
    width = 2 * HASH_BYTES
    levels = [leaf_hashes]
    while len(below := levels[-1]) >= width:
        pairs = (below[i : i + width] for i in range(0, len(below) - width + 1, width))
        levels.append(b"".join(node_hash(p[:HASH_BYTES], p[HASH_BYTES:]) for p in pairs))
    return lambda level, index: levels[level][index * HASH_BYTES : (index + 1) * HASH_BYTES]


# Who holds only a root


def verify_inclusion(
    leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> bool:
    """Say whether `proof` shows the leaf at `index` of the tree with this `size` and `root`.

    Size and root belong together: take both from one verified checkpoint. A root alone does not
    fix the size, so a size from elsewhere proves nothing about the place.
    """
    if not 0 <= index < size or not _all_hashes(leaf_hash, root, *proof):
        return False
    on_the_left: list[bool] = []  # from the root down: on which side the sibling lies
    low, high = 0, size
    while high - low > 1:
        middle = _split(low, high)
        on_the_left.append(index >= middle)
        low, high = (middle, high) if index >= middle else (low, middle)
    if len(proof) != len(on_the_left):
        return False
    digest = leaf_hash
    for sibling, left in zip(proof, reversed(on_the_left), strict=True):
        digest = node_hash(sibling, digest) if left else node_hash(digest, sibling)
    return digest == root


def verify_consistency(
    old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Say whether `proof` shows that the new tree begins with all the leaves of the old one.

    From the empty tree everything grows, so there only its root and an empty proof are asked for.
    """
    if not 0 <= old_size <= new_size or not _all_hashes(old_root, new_root, *proof):
        return False
    if not old_size:
        return not proof and old_root == EMPTY_ROOT and (new_size > 0 or new_root == EMPTY_ROOT)
    on_the_left: list[bool] = []
    low, high = 0, new_size
    while high != old_size:
        middle = _split(low, high)
        on_the_left.append(old_size > middle)
        low, high = (middle, high) if old_size > middle else (low, middle)
    path = list(proof) if low else [old_root, *proof]
    if len(path) != len(on_the_left) + 1:
        return False
    old = new = path[0]
    for node, left in zip(path[1:], reversed(on_the_left), strict=True):
        # what lies to the left is in both trees, what lies to the right only in the new one
        old = node_hash(node, old) if left else old
        new = node_hash(node, new) if left else node_hash(new, node)
    return old == old_root and new == new_root


# The recursion of RFC 6962, as ranges of leaves


def _split(low: int, high: int) -> int:
    """Return where the tree over leaves [low, high) divides: the largest power of two below n."""
    return low + (1 << ((high - low - 1).bit_length() - 1))


def _subtree(low: int, high: int, get: Get) -> bytes:
    """Return the root over leaves [low, high), a range that the recursion meets.

    Such a range is a row of complete subtrees, each smaller than the one to its left: the binary
    digits of its length.
    """
    complete: list[bytes] = []
    while low < high:
        level = (high - low).bit_length() - 1
        complete.append(get(level, low >> level))
        low += 1 << level
    digest = complete.pop()
    while complete:
        digest = node_hash(complete.pop(), digest)
    return digest


def _in_memory(leaf_hashes: Sequence[bytes]) -> Get:
    nodes = {(level, index): digest for level, index, digest in new_nodes(0, leaf_hashes, _nothing)}
    return lambda level, index: nodes[level, index]


def _nothing(level: int, index: int) -> bytes:
    raise LookupError(f"node {index} of level {level} was asked for before there was any")


def _all_hashes(*values: bytes) -> bool:
    # With other lengths the border between left and right could be moved under the same hash.
    return all(len(value) == HASH_BYTES for value in values)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
