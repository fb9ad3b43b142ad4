"""A service on a tiny pipeline, called in the same process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import torch
from anechoic_serve import Settings, create_app
from anechoic_serve.service import Service

from anechoic import TrainingIndex, embedder
from anechoic.diffusers import fingerprint
from anechoic.diffusers.generate import generate
from anechoic.index.clips import Sound
from anechoic.protection import Judge
from anechoic.protection.policy import seed_of_attempt
from support.pipelines import CAPTIONS
from support.sounds import RATE

CALL = {"num_inference_steps": 6, "guidance_scale": 7.0, "output_type": "pt"}
MEMORIZED = CAPTIONS[0]  # a copy under seed 0 and its first retry


def save_memorized(folder: Path, pipe: Any, limit: float = 0.9999) -> Path:
    """An index of what a plain pipeline makes of the first caption under two seeds."""
    seeds = [seed_of_attempt(0, number) for number in range(2)]
    sounds = [generate(pipe, MEMORIZED, seed, CALL).samples[0] for seed in seeds]
    noise = torch.Generator().manual_seed(0)
    sounds += [0.3 * torch.randn(2, 64, generator=noise) for _ in range(2)]
    clips = [Sound(f"{i}.wav", CAPTIONS[i], wav, RATE) for i, wav in enumerate(sounds)]
    made = embedder("magmel")
    index = TrainingIndex.build(clips, made, thresholds={"copy": limit}, model=fingerprint(pipe))
    index.save(folder, overwrite=True)
    return folder


def make_service(
    folder: Path, pipe: Any = None, *, load: Callable[..., Any] | None = None, **settings: Any
) -> Service:
    """A service of a pipeline whose index lies in a folder."""
    chosen = Settings(model="tiny", index=str(folder), steps=6, **settings)
    return Service(chosen, load or (lambda _: (pipe, Judge.load(folder))))


@asynccontextmanager
async def client_of(service: Service, ready: bool = True) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a service that runs, once it is ready."""
    app = create_app(service=service)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=app), base_url="http://localhost", timeout=60
        ) as client,
    ):
        until = time.monotonic() + 60
        while ready and service.unready():
            assert time.monotonic() < until, service.unready()
            await asyncio.sleep(0.02)
        yield client


def with_client(
    service: Service, run: Callable[[httpx2.AsyncClient], Awaitable[Any]], ready: bool = True
) -> Any:
    """What a function makes of a client."""

    async def inside() -> Any:
        async with client_of(service, ready) as client:
            return await run(client)

    return asyncio.run(inside())
