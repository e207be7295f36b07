"""The HTTP application: the management endpoints, beside the inference routes that the serving process hands in."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from service import __version__
from service.api import batching, datasets, deployments, jobs, models, operations, quantize
from service.api.dependencies import Services
from service.api.error_responses import install_error_handlers
from service.api.head_requests import AnswerHead
from service.api.uploads import prepare_spool

_DESCRIPTION = "Turns an uploaded model into engines proven on the host that serves them, and serves them."
_FRAMEWORKS_ERROR = "HTTPValidationError"


class _Application(FastAPI):
    """Documents no error but its own: the framework adds one of another form to each route with a parameter."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            for operations in document["paths"].values():
                for operation in operations.values():
                    if _FRAMEWORKS_ERROR in str(operation["responses"].get("422")):
                        del operation["responses"]["422"]
            for name in (_FRAMEWORKS_ERROR, "ValidationError"):
                document["components"]["schemas"].pop(name, None)
        return self.openapi_schema or {}


def create_app(services: Services) -> FastAPI:
    """The application over these services. Makes the spool folder, and clears it of abandoned uploads."""
    prepare_spool(services.spool)
    app = _Application(title="Octavo", description=_DESCRIPTION, version=__version__, redoc_url=None)
    app.state.services = services
    install_error_handlers(app)
    app.add_middleware(operations.CountRequests)
    app.add_middleware(AnswerHead)
    app.router.routes.extend(services.routes)
    for part in (models, datasets, quantize, jobs, deployments, batching, operations):
        app.include_router(part.router)
    return app
