"""The service: `create_app(settings)` joins the parts and the routes."""

from __future__ import annotations

from flask import Flask

from sectionfour.bootstrap import open_notary, open_parts
from sectionfour.settings import Settings, from_environment
from sectionfour.web import assess, problems


def create_app(settings: Settings | None = None) -> Flask:
    """Return the service over what lies in `settings.home` (the environment's without one)."""
    settings = settings or from_environment()
    app = Flask("sectionfour", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = 16 * 1024 * 1024
    parts = open_parts(settings)
    app.extensions["sectionfour"] = parts
    app.extensions["sectionfour.notary"] = open_notary(settings, parts)
    problems.register(app)
    app.register_blueprint(assess.routes)
    return app
