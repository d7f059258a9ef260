"""Receipts and the log's checkpoints, for whoever wants to check them elsewhere."""

from __future__ import annotations

import base64

import msgspec
from flask import Response, request

from sectionfour.errors import NotFound
from sectionfour.privacy import notes
from sectionfour.web import schemas
from sectionfour.web.keys import ROLES, Caller
from sectionfour.web.routes import TEXT, Route, Service, answer


def read_receipt(service: Service, who: Caller, assessment_id: str) -> Response:
    """The receipt of an assessment, the exact bytes of its leaf, and a C2SP tlog-proof of it.

    With `Accept: text/plain` the proof alone. `vkey` is all else that a verifier needs.
    """
    parts = service.parts
    proven = None
    if parts.ledger.assessment(assessment_id) is not None:
        proven = service.notary.prove(assessment_id, parts.clock())
    if proven is None:
        raise NotFound("there is no receipt of this id")
    leaf, proof = proven
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


def read_checkpoint(service: Service, who: Caller) -> Response:
    """The newest signed checkpoint of the log: its name, its size, its root, and a signature."""
    newest = service.parts.ledger.newest_checkpoint()
    note = newest[1] if newest else service.notary.extend(service.parts.clock())
    if note is None:
        raise NotFound("the log has no entry yet")
    return Response(note, content_type=TEXT)


ROUTES = (
    Route(
        method="GET",
        path="/v1/receipts/{assessment_id}",
        handle=read_receipt,
        tag="Receipts",
        roles=("privacy",),
        answers={200: schemas.Receipt},
    ),
    Route(
        method="GET",
        path="/v1/log/checkpoint",
        handle=read_checkpoint,
        tag="Receipts",
        roles=ROLES,
        answers={200: TEXT},
    ),
)
