"""What stands around every request: limits of its body, and a stopwatch."""

from __future__ import annotations

import asyncio
import time

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anechoic_serve.metrics import Metrics


class BoundedBody:
    """Answers 413 where a body is too large, and 408 where it does not come in time."""

    def __init__(self, app: ASGIApp, most_bytes: int, seconds: float):
        self.app, self.most_bytes, self.seconds = app, most_bytes, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        until, size, whole = time.monotonic() + self.seconds, 0, False

        async def bounded() -> Message:
            nonlocal size, whole
            if whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
            except TimeoutError:
                detail = f"the body did not come within {self.seconds:g} s; send it faster"
                raise HTTPException(408, detail) from None
            size += len(message.get("body", b""))
            if size > self.most_bytes:
                detail = f"the body has over {self.most_bytes:,} bytes; send less"
                raise HTTPException(413, detail)
            whole = not message.get("more_body", False)
            return message

        await self.app(scope, bounded, send)


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
