"""Receipts and the log's checkpoints, for whoever wants to check them elsewhere."""

from __future__ import annotations

import base64
import re
from typing import Any

import msgspec
from flask import Response, request
from msgspec import Struct

from sectionfour.errors import BadRequest, NotFound
from sectionfour.privacy import merkle, notes
from sectionfour.web import schemas
from sectionfour.web.keys import ROLES, Caller
from sectionfour.web.routes import TEXT, Route, Service, answer


class Receipt(Struct):
    """`leaf` are the exact bytes whose hash is in the log, in base64; `receipt` is their JSON."""

    receipt: dict[str, Any]
    leaf: str
    proof: str
    vkey: str
    checkpoint: str


class Consistency(Struct):
    """`consistency` are hashes in base64: RFC 6962, section 2.1.2."""

    first: int
    second: int
    consistency: list[str]


def read_receipt(service: Service, who: Caller, assessment_id: str) -> Response:
    """The receipt of an assessment, the exact bytes of its leaf, and a C2SP tlog-proof of it.

    With `Accept: text/plain` the proof alone. `vkey` is all else that a verifier needs.
    """
    leaf, proof = proven(service, assessment_id)
    if request.accept_mimetypes.best_match(["application/json", "text/plain"]) == "text/plain":
        return Response(proof, content_type=TEXT)
    said = {
        "receipt": msgspec.Raw(leaf),
        "leaf": base64.b64encode(leaf).decode(),
        "proof": proof,
        "vkey": service.notary.vkey,
        "checkpoint": notes.parse_proof(proof).note,
    }
    return answer(said)


def proven(service: Service, assessment_id: str) -> tuple[bytes, str]:
    """Return the leaf of a receipt and a proof of it; NotFound where there is none."""
    parts = service.parts
    # By the log alone: what was kept of the assessment may be gone, and the receipt is not.
    found = parts.ledger.find(assessment_id)
    if found is None or msgspec.json.decode(found[1]).get("receipt_id") != assessment_id:
        raise NotFound("there is no receipt of this id")
    proof = service.notary.prove(assessment_id, parts.clock())
    assert proof is not None  # found above, and the log only grows
    return proof


def read_checkpoint(service: Service, who: Caller) -> Response:
    """The newest signed checkpoint of the log: its name, its size, its root, and a signature."""
    newest = service.parts.ledger.newest_checkpoint()
    note = newest[1] if newest else service.notary.extend(service.parts.clock())
    if note is None:
        raise NotFound("the log has no entry yet")
    return Response(note, content_type=TEXT)


def read_consistency(service: Service, who: Caller) -> Response:
    """A proof that the log of `second` entries began as the log of `first`.

    Hashes in base64, as RFC 6962 has them (2.1.2); no `second` means the newest checkpoint.
    """
    newest = service.parts.ledger.newest_checkpoint()
    covered = newest[0] if newest else 0
    first, second = _size("first", None), _size("second", covered)
    if second > covered:
        raise BadRequest("no checkpoint covers so many entries yet", pointer="/second")
    if first > second:
        raise BadRequest("the log of `second` entries is the longer one", pointer="/first")
    proof = merkle.consistency_at(first, second, service.parts.ledger.node)
    said = [base64.b64encode(digest).decode() for digest in proof]
    return answer({"first": first, "second": second, "consistency": said})


def _size(name: str, otherwise: int | None) -> int:
    text = request.args.get(name)
    if text is None and otherwise is not None:
        return otherwise
    if text is None or not _NUMBER.fullmatch(text):
        raise BadRequest(f"{name} is a number of entries", pointer=f"/{name}")
    return int(text)


_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")

ROUTES = (
    Route(
        method="GET",
        path="/v1/receipts/{assessment_id}",
        handle=read_receipt,
        tag="Receipts",
        roles=("privacy",),
        answers={200: Receipt},
    ),
    Route(
        method="GET",
        path="/v1/log/checkpoint",
        handle=read_checkpoint,
        tag="Receipts",
        roles=ROLES,
        answers={200: TEXT},
        problems=(404,),
    ),
    Route(
        method="GET",
        path="/v1/log/consistency",
        handle=read_consistency,
        tag="Receipts",
        roles=ROLES,
        query={"first": schemas.Natural, "second": schemas.Natural},
        required=("first",),
        answers={200: Consistency},
    ),
)
