"""The application of a service: its routes, and how errors are answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from anechoic import __version__
from anechoic.errors import AnechoicError, BadAudio, BadSetting, printable
from anechoic_serve.errors import NotReady, NotServed
from anechoic_serve.middleware import BoundedBody, Timed
from anechoic_serve.routes import Endpoint, router
from anechoic_serve.service import CLOSED, Service
from anechoic_serve.settings import LOOPBACK, Settings, sentence
from anechoic_serve.shelf import Shelf

if TYPE_CHECKING:
    from anechoic_serve.replicas import SharedShelf

LOG = logging.getLogger("anechoic.serve")


def create_app(
    settings: Settings | None = None,
    service: Service | None = None,
    shelf: Shelf | SharedShelf | None = None,
) -> FastAPI:
    """The application of a service, which it starts and stops.

    Args:
        settings: of the operator; by default those of the environment.
        service: what generates and checks; by default one with these settings.
        shelf: keeps what links lead to; by default the memory of this process.

    Example: `uvicorn.run(create_app(Settings(model="demo")))`
    """
    found = Service(settings or Settings()) if service is None else service
    chosen = found.settings

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        found.start()
        yield
        await asyncio.to_thread(found.stop)

    app = FastAPI(
        title="anechoic",
        version=__version__,
        summary="Text to sound that is no copy of a training clip.",
        lifespan=life,
    )
    app.state.endpoint = Endpoint(found, shelf)
    app.include_router(router)
    app.add_exception_handler(AnechoicError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(Exception, _answer_fault)
    app.add_middleware(BoundedBody, most_bytes=chosen.body_bytes, seconds=chosen.body_s)
    if not chosen.keys:  # a page of another site may not ask in its reader's name
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]"])
    app.add_middleware(Timed, metrics=found.metrics)
    return app


async def _answer_error(request: Request, error: Exception) -> Response:
    status, headers = 503, {}
    if isinstance(error, NotServed):
        status, headers = error.status, error.headers
    elif isinstance(error, (BadSetting, BadAudio)):
        status = 422
    else:  # its sentence may name files of this machine
        LOG.error("not served: %s", error)
        error = NotReady(CLOSED)
    return JSONResponse({"detail": str(error)}, status, headers)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"detail": printable(sentence(error.errors()[0]))}, 422)


async def _answer_fault(request: Request, error: Exception) -> Response:
    LOG.error("a fault", exc_info=error)
    return JSONResponse({"detail": "a fault of the service; nothing is released"}, 500)
