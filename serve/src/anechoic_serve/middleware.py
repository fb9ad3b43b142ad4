"""What stands around every request: a time for its body, and a stopwatch."""

from __future__ import annotations

import asyncio
import time

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anechoic_serve.metrics import Metrics


class TimelyBody:
    """Answers 408 where a body does not come in time, so that slow clients hold nothing."""

    def __init__(self, app: ASGIApp, seconds: float):
        self.app, self.seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        until, whole = time.monotonic() + self.seconds, scope["type"] != "http"

        async def timely() -> Message:
            nonlocal whole
            if whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
            except TimeoutError:
                detail = f"the body did not come within {self.seconds:g} s; send it faster"
                raise HTTPException(408, detail) from None
            whole = not message.get("more_body", False)
            return message

        await self.app(scope, timely, send)


class Timed:
    """Measures each request, by its route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), "none"

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            took = time.perf_counter() - start
            self.metrics.requests.labels(route, status).observe(took)
