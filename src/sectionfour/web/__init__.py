"""The service: `create_app(settings)` joins the parts and the routes."""

from __future__ import annotations

from typing import Any

from flask import Flask

from sectionfour.bootstrap import open_notary, open_parts
from sectionfour.jobs.upkeep import Upkeep
from sectionfour.settings import Settings, from_environment
from sectionfour.web import (
    assess,
    attestations,
    body,
    cases,
    cessation,
    consents,
    console,
    exceptions,
    holds,
    labels,
    openapi,
    operations,
    problems,
    receipts,
    reidentification,
    reports,
    rights,
    routes,
    services,
)
from sectionfour.web.metrics import Metrics

ROUTES = (
    *assess.ROUTES,
    *consents.ROUTES,
    *attestations.ROUTES,
    *services.ROUTES,
    *exceptions.ROUTES,
    *labels.ROUTES,
    *cases.ROUTES,
    *reidentification.ROUTES,
    *receipts.ROUTES,
    *reports.ROUTES,
    *holds.ROUTES,
    *cessation.ROUTES,
    *rights.ROUTES,
    *operations.ROUTES,
    *console.ROUTES,
)


class Application(Flask):
    """Flask, but for what it writes of an exception: its message, and a path, may be raw."""

    def log_exception(self, *context: Any) -> None:
        problems.fault(context[-1][1])  # what sys.exc_info gives is last, in every version


def create_app(settings: Settings | None = None, *, upkeep: bool = False) -> Flask:
    """Return the service over what lies in `settings.home` (the environment's without one).

    With `upkeep`, as in a serving worker, a thread signs checkpoints and settles windows until
    `app.extensions["sectionfour.jobs.upkeep"].stop()`.
    """
    settings = settings or from_environment()
    app = Application("sectionfour", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = body.READ
    app.url_map.merge_slashes = False  # a path with two is no route, and no redirect
    app.url_map.converters["assessment"] = routes.AssessmentId
    parts = open_parts(settings)
    notary = open_notary(settings, parts)
    service = routes.Service(parts, notary, settings, Metrics(parts.ledger.size, settings.home))
    app.extensions["sectionfour"] = parts
    app.extensions["sectionfour.notary"] = notary
    problems.register(app, service.metrics, body.discard)
    for route in (*ROUTES, *openapi.routes(ROUTES)):
        routes.add(app, service, route)
    console.register(app, service)
    if upkeep:
        app.extensions["sectionfour.jobs.upkeep"] = Upkeep(parts, notary, settings)
    return app
