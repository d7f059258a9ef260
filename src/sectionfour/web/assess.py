"""POST /v1/assessments: the hot path's edge. Decode, decide, answer."""

from __future__ import annotations

import msgspec
from flask import Blueprint, Response, current_app, request

from sectionfour.decide import Parts, decide
from sectionfour.domain import Given
from sectionfour.web.problems import MEDIA_TYPE, invalid

routes = Blueprint("assess", __name__)
_canonical = msgspec.json.Encoder(order="deterministic").encode


@routes.post("/v1/assessments")
def assess() -> Response:
    parts: Parts = current_app.extensions["sectionfour"]
    try:
        body = msgspec.json.decode(request.get_data(cache=False))
        given = msgspec.convert(body, Given)
    except msgspec.DecodeError as error:
        raise invalid(error) from None
    status, answer = decide(given, parts.keys.ring.digest(_canonical(body)), parts)
    return Response(answer, status, content_type="application/json" if status == 200 else MEDIA_TYPE)
