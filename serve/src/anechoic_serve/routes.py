"""The routes: who may ask, what for, and what is answered."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, HTTPException, Request, Response, Security
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.sse import EventSourceResponse, ServerSentEvent
from prometheus_client import CONTENT_TYPE_LATEST

from anechoic.errors import AnechoicError, BadSetting
from anechoic.protection import Policy
from anechoic.protection.result import promise
from anechoic_serve.content import (
    MEDIA,
    AttemptMade,
    Checked,
    Detected,
    Generate,
    IndexShown,
    Limit,
    Problem,
    Ready,
    SoundMade,
    Sounds,
)
from anechoic_serve.errors import Busy, NotReady, Refused, TooLate
from anechoic_serve.keys import owner
from anechoic_serve.service import CLOSED, SEEDS, Job, Made, Service, shown
from anechoic_serve.shelf import Shelf, Shelved

if TYPE_CHECKING:
    from anechoic_serve.replicas import SharedShelf

LOG = logging.getLogger("anechoic.serve")
ANYBODY = "anybody"  # who asks where there are no keys
SOUND = {"type": "string", "format": "binary"}
Answers = dict[int | str, dict[str, Any]]
PROBLEMS: Answers = {
    400: {"model": Problem, "description": "The request cannot be read."},
    401: {"model": Problem, "description": "No key, or nobody's."},
    408: {"model": Problem, "description": "The body did not come in time."},
    413: {"model": Problem, "description": "The body is too large."},
    422: {"model": Problem, "description": "Something else was expected."},
    429: {
        "model": Problem,
        "description": "So many sounds wait that this one cannot, or not until its deadline; see "
        "Retry-After.",
    },
    503: {"model": Problem, "description": "Nothing can be verified, so nothing is released."},
}
GONE: Answers = {404: {"model": Problem, "description": "There is no such sound."}}
MAKING: Answers = {
    409: {"model": Problem, "description": "All attempts were copies; nothing is released."},
    504: {"model": Problem, "description": "It was not done by its deadline."},
}
FILE: dict[str, Any] = {"content": {media: {"schema": SOUND} for media in MEDIA.values()}}
RELEASED: Answers = {
    200: {
        **FILE,
        "description": "Sound that was verified; its headers say how. JSON where `links` is on.",
        "headers": {
            "Anechoic-Request": {"schema": {"type": "string"}},
            "Anechoic-Verdict": {
                "schema": {"type": "string", "enum": ["released", "regenerated"]},
                "description": "released: the first attempt; regenerated: a later one",
            },
            "Anechoic-Similarity": {
                "schema": {"type": "number"},
                "description": "to the nearest training clip",
            },
            "Anechoic-Attempts": {"schema": {"type": "integer"}},
            "Anechoic-Seed": {"schema": {"type": "integer"}},
            "Anechoic-Certificate": {
                "schema": {"type": "string"},
                "description": "the address of its certificate",
            },
        },
    }
}
ANY_SOUND = {
    "requestBody": {
        "required": True,
        "content": {
            media: {"schema": SOUND}
            for media in (*MEDIA.values(), "audio/ogg", "application/octet-stream")
        },
    }
}
router = APIRouter()


class Endpoint:
    """A service, and the sounds that it released lately."""

    def __init__(self, service: Service, shelf: Shelf | SharedShelf | None = None):
        self.service, self.settings = service, service.settings
        self.shelf = shelf or Shelf(self.settings.keep_bytes, self.settings.keep_s)
        self.checks = CapacityLimiter(self.settings.pipelines)

    def submit(self, asked: Generate, caller: str, **more: Any) -> Job:
        """Put what was asked on its way.

        Raises:
            BadSetting: more than the operator allows.
            NotReady, Busy: as `Service.submit`.
        """
        if asked.n > self.settings.batch:
            raise BadSetting(
                f"n: at most {self.settings.batch} sounds are made at once here, got {asked.n}"
            )
        policy = asked.policy or self.settings.policy
        if asked.policy and len(Policy.parse(policy).attempts) > self.settings.attempts:
            raise BadSetting(
                f"policy: at most {self.settings.attempts} attempts are made here, got {policy!r}"
            )
        job = Job(
            secrets.token_hex(8),
            caller,
            asked.prompt,
            secrets.randbelow(SEEDS) if asked.seed is None else asked.seed,
            asked.n,
            asked.seconds,
            policy,
            f".{asked.format}",
            self.seconds(asked),
            **more,
        )
        self.service.submit(job)
        return job

    def seconds(self, asked: Generate) -> float:
        """How long the client waits at most."""
        return min(asked.deadline_s or self.settings.deadline_s, self.settings.deadline_s)

    def give_up(self, job: Job, reason: str) -> None:
        """Nobody waits for a job any longer; if it is not done, it ends at its next step."""
        if job.done.cancel():
            self.service.metrics.abandoned.labels(reason).inc()
            LOG.info("request %s was abandoned: %s", job.request, reason)
            about = {"request": job.request, "key": job.owner, "outcome": f"abandoned: {reason}"}
            asyncio.get_running_loop().run_in_executor(None, self.service.note, about)

    def keep(self, made: Made, asked: Generate, caller: str) -> str:
        """Keep a sound: its address."""
        media = MEDIA[asked.format]
        return f"/v1/sounds/{self.shelf.put(made.content, media, made.certificate, caller)}"

    def kept(self, name: str, caller: str) -> Shelved:
        """The sound of an address. Raises `HTTPException` 404."""
        if (found := self.shelf.get(name, caller)) is None:
            raise HTTPException(404, "there is no such sound, or it was here for too long")
        return found

    def links(self, job: Job, made: Sequence[Made], asked: Generate) -> dict[str, Any]:
        """The answer that links to sounds."""
        sounds = [self._linked(one, asked, job.owner) for one in made]
        return Sounds(request=job.request, seed=job.seed, sounds=sounds).model_dump()

    def _linked(self, made: Made, asked: Generate, caller: str) -> SoundMade:
        verdict = made.sound.verdict
        assert verdict != "reported", "no policy here lets a copy out"
        return SoundMade(
            verdict=verdict,
            url=self.keep(made, asked, caller) if made.content else None,
            certificate=made.certificate if made.content else None,
            attempts=[
                AttemptMade(
                    attempt=attempt.kind,
                    seed=attempt.seed,
                    guard=attempt.guard or None,
                    verdict=attempt.status,
                    seconds=round(attempt.seconds, 4),
                    detectors=[Detected(**found) for found in shown(attempt.judgement)],
                )
                for attempt in made.sound.attempts
            ],
        )


def _here(request: Request) -> Endpoint:
    found: Endpoint = request.app.state.endpoint
    return found


Here = Annotated[Endpoint, Depends(_here)]
BEARER = HTTPBearer(auto_error=False, description="A key that the operator made.")


def _caller(
    here: Here, given: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]
) -> str:
    """The name of who asks. Raises `HTTPException` 401."""
    if not here.settings.keys:
        return ANYBODY
    known = owner(here.settings.keys, given.credentials) if given else None
    if known is None:
        detail = "give a key that the operator made: 'Authorization: Bearer KEY'"
        raise HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})
    return known


Caller = Annotated[str, Depends(_caller)]


# ------------------------------------------------------------------------------------- generating


@router.post(
    "/v1/generate",
    tags=["sound"],
    response_model=Sounds,
    responses={**PROBLEMS, **MAKING, **RELEASED},
)
async def generate(asked: Generate, request: Request, caller: Caller, here: Here) -> Response:
    """Generate sound, and answer with what was verified to be no copy of a training clip."""
    if asked.n > 1 and not asked.links:
        raise BadSetting("n: several sounds come as links; set 'links' to true")
    job = here.submit(asked, caller)
    made = await _outcome(here, job, request, here.seconds(asked))
    _require_released(made)
    if asked.links:
        return JSONResponse(await to_thread.run_sync(here.links, job, made, asked))
    (one,) = made
    last = one.sound.attempts[-1]
    nearest = next(iter(last.judgement.verdicts.values()))
    place = await to_thread.run_sync(here.keep, one, asked, caller)
    headers = {
        "Anechoic-Request": job.request,
        "Anechoic-Verdict": one.sound.verdict,
        "Anechoic-Similarity": f"{nearest.score:.4f}",
        "Anechoic-Attempts": str(len(one.sound.attempts)),
        "Anechoic-Seed": str(last.seed),
        "Anechoic-Certificate": f"{place}/certificate",
    }
    return Response(one.content, media_type=MEDIA[asked.format], headers=headers)


Events = asyncio.Queue[ServerSentEvent | None]


async def _followed(asked: Generate, caller: Caller, here: Here) -> tuple[Generate, Job, Events]:
    """What was asked, on its way, and the events of it. It is refused before a stream begins."""
    loop, events = asyncio.get_running_loop(), Events()

    def put(one: ServerSentEvent | None) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(events.put_nowait, one)

    def tell(event: str, content: dict[str, Any]) -> None:
        put(ServerSentEvent(event=event, data=content))

    job = here.submit(asked, caller, progress=tell)
    job.done.add_done_callback(lambda _: put(None))
    return asked, job, events


@router.post(
    "/v1/generate/events",
    tags=["sound"],
    response_class=EventSourceResponse,
    responses={**PROBLEMS},
)
async def follow(
    followed: Annotated[tuple[Generate, Job, Events], Depends(_followed)], here: Here
) -> AsyncIterator[ServerSentEvent]:
    """Generate sound, and tell of each step. The events are `queued`, then `step` and `sound`, then
    `done` with what `/v1/generate` answers under `links`, or `problem`."""
    asked, job, events = followed
    until = time.monotonic() + here.seconds(asked)
    try:
        about = {"request": job.request, "waiting": here.service.waiting()}
        yield ServerSentEvent(event="queued", data=about)
        while (one := await _before(events.get(), until)) is not None:
            yield one
        made = job.done.result()
        _require_released(made)
        links = await to_thread.run_sync(here.links, job, made, asked)
        yield ServerSentEvent(event="done", data=links)
    except AnechoicError as error:
        about = {"status": getattr(error, "status", 422), "detail": str(error)}
        yield ServerSentEvent(event="problem", data=about)
    finally:
        here.give_up(job, "events")


async def _outcome(here: Endpoint, job: Job, request: Request, seconds: float) -> list[Made]:
    """What becomes of a job, unless its deadline passes or its client goes.

    Raises:
        TooLate: so it is.
        AnechoicError: what the job ended with.
    """
    done, gone = asyncio.wrap_future(job.done), asyncio.ensure_future(_gone(request))
    reason = "client"  # also where the server cancels this, as it ends
    try:
        either: set[asyncio.Future[Any]] = {done, gone}
        await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if done.done():
            return done.result()
        if not gone.done():
            reason = "deadline"
        raise TooLate(f"it was not done within {seconds:g} s; ask again, or for less")
    finally:
        here.give_up(job, reason)
        gone.cancel()


async def _gone(request: Request) -> None:
    """Wait until the client goes away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _before(waited: Awaitable[Any], until: float) -> Any:
    try:
        return await asyncio.wait_for(waited, max(0.0, until - time.monotonic()))
    except TimeoutError:
        raise TooLate("it was not done by its deadline; ask again, or for less") from None


def _require_released(made: Sequence[Made]) -> None:
    """Refuse to answer where nothing leaves.

    Raises:
        NotReady: something could not be judged.
        Refused: all were copies.
    """
    if any(one.content for one in made):
        return
    for one in made:
        if one.sound.verdict == "not judged":
            LOG.warning("not judged: %s", one.sound.reason)
            raise NotReady(CLOSED)
    raise Refused(f"{made[0].sound.reason}; ask for another seed or prompt")


@router.get(
    "/v1/sounds/{name}",
    tags=["sound"],
    response_class=Response,
    responses={**PROBLEMS, **GONE, 200: {**FILE, "description": "The sound."}},
)
def sound(name: str, caller: Caller, here: Here) -> Response:
    """A sound that was released."""
    kept = here.kept(name, caller)
    return Response(kept.content, media_type=kept.media)


@router.get("/v1/sounds/{name}/certificate", tags=["sound"], responses={**PROBLEMS, **GONE})
def certificate(name: str, caller: Caller, here: Here) -> dict[str, Any]:
    """The certificate of a sound that was released."""
    return here.kept(name, caller).certificate


# --------------------------------------------------------------------------- checking, and looking


@router.post("/v1/check", tags=["sound"], openapi_extra=ANY_SOUND, responses={**PROBLEMS})
async def check(request: Request, caller: Caller, here: Here) -> Checked:
    """Tell whether a sound file is a copy of a training clip. The body is the file: WAV, FLAC, OGG
    or MP3, whatever it is called."""
    content = await request.body()
    if here.checks.statistics().tasks_waiting >= here.settings.queue:
        raise Busy("too many files wait to be checked; try again later", 5)
    asked = (content, caller, secrets.token_hex(8))
    found = await to_thread.run_sync(here.service.check, *asked, limiter=here.checks)
    return Checked(**found)


@router.get("/v1/index", tags=["sound"], responses={**PROBLEMS})
def index(caller: Caller, here: Here) -> IndexShown:
    """The index that sounds are compared with, the limits of the detectors, and what is promised
    about all that is released."""
    judge = here.service.judge()
    limits = [
        Limit(
            detector=detector,
            limit=None if rule is None else rule.threshold,
            false_positive_rate=None if rule is None else rule.false_positive_rate,
            held_out=None if rule is None else rule.to_dict()["held_out"],
        )
        for detector, rule in judge.rules.items()
    ]
    return IndexShown(
        name=judge.index.name,
        content=judge.index.content,
        clips=judge.index.stored()[1].clips,
        embedder=judge.index.embedder_name,
        model=judge.index.model,
        detectors=limits,
        promise=promise(judge, "refuse", False),
    )


# ------------------------- what an operator's machines ask, without a key: nothing of a request


@router.get("/healthz", tags=["watch"])
async def healthz() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "alive"}


@router.get("/readyz", tags=["watch"], response_model=Ready, responses={503: {"model": Ready}})
def readyz(here: Here) -> Response:
    """Whether sound can be generated and verified."""
    why = here.service.unready()
    return JSONResponse({"ready": not why, "reason": why}, 503 if why else 200)


@router.get("/metrics", tags=["watch"], response_class=Response)
def metrics(here: Here) -> Response:
    """Counters, in the format of Prometheus."""
    return Response(here.service.metrics.text(), media_type=CONTENT_TYPE_LATEST)
