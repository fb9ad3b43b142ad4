"""The service behind the endpoint: a model, a judge, and threads that generate in batches."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from anechoic.errors import AnechoicError, BadSetting
from anechoic_serve.errors import Busy, NotReady
from anechoic_serve.log import AuditLog
from anechoic_serve.metrics import Metrics
from anechoic_serve.settings import Settings

if TYPE_CHECKING:
    from anechoic import PipelinePool, TrainingIndex
    from anechoic.protection import Judge, Judgement, ProtectedSound

LOG = logging.getLogger("anechoic.serve")
SEEDS = 2**32
CLOSED = "sound cannot be verified now, so none is released; try again later, or ask the operator"
UNLOGGED = "the audit log cannot be written, so nothing is released; ask the operator"
Progress = Callable[[str, dict[str, Any]], None]  # an event's name, and what it says


class _Abandoned(BaseException):
    """Nobody waits for this batch. No `Exception`, or it would count as an attempt that failed."""


@dataclass(frozen=True, eq=False)
class Made:
    """What became of one sound of a request; without content, nothing leaves."""

    sound: ProtectedSound
    content: bytes = b""  # the file
    certificate: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Job:
    """One request on its way. Who no longer waits for it cancels `done`."""

    request: str  # its id
    owner: str
    prompt: str
    seed: int
    count: int
    seconds: float | None
    policy: str
    suffix: str  # of the files
    deadline_s: float  # how long the client waits at most
    progress: Progress = lambda name, content: None  # called in the thread that generates
    done: Future[list[Made]] = field(default_factory=Future)
    made: dict[int, Made] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        """The seed of each sound's first attempt."""
        return [(self.seed + number) % SEEDS for number in range(self.count)]

    def fits(self, other: Job) -> bool:
        """Whether a pipeline can generate both at once."""
        return (self.seconds, self.policy) == (other.seconds, other.policy)

    def end(self, outcome: list[Made] | Exception) -> None:
        """Answer it, unless nobody waits."""
        with suppress(InvalidStateError):
            if isinstance(outcome, Exception):
                self.done.set_exception(outcome)
            else:
                self.done.set_result(outcome)


@dataclass(frozen=True, eq=False)
class _Loaded:
    """All that generates and judges."""

    pool: PipelinePool
    pipe: Any
    judge: Judge


class Service:
    """Generates and checks for many at once, and answers only with what was verified.

    Nothing is served before `start` has loaded the model and the index, nor while the index on disk
    is another than the one that was loaded: `reload` opens it again.

    Args:
        settings: of the operator.
        load: makes the pipeline and the judge; by default those that the settings name.
        metrics: what counts; by default for this service alone.
    """

    def __init__(
        self,
        settings: Settings,
        load: Callable[[Settings], tuple[Any, Judge]] | None = None,
        metrics: Metrics | None = None,
    ):
        self.settings = settings
        self.metrics = metrics or Metrics()
        self.log = AuditLog(
            settings.log, settings.log_prompts, settings.log_bytes, settings.log_files
        )
        self._load = load or load_named
        self._loaded: _Loaded | None = None
        self._why = "the model is being loaded"
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._threads: list[threading.Thread] = []
        self._seconds: float | None = None  # that a sound took lately
        self._underway = 0  # sounds that pipelines generate now
        self.metrics.waiting.set_function(self.waiting)
        self.metrics.ready.set_function(lambda: not self.unready())

    # ------------------------------------------------------------------------- begin and end

    def start(self) -> None:
        """Load in a thread, then generate in others; what `open` has loaded is there already."""
        if self._loaded is None:
            self._spawn(self.open)

    def _spawn(self, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def open(self) -> None:
        """Load, and begin to generate; `unready` says if it could not be."""
        from anechoic import PipelinePool

        try:
            pipe, judge = self._load(self.settings)
            _require_match(pipe, judge, self._arguments(pipe, None))
            loaded = _Loaded(PipelinePool(pipe, self.settings.pipelines), pipe, judge)
        except Exception as error:  # whatever it is, the service is not ready, and says so
            self._why = f"the model or the index could not be loaded ({error})"
            LOG.exception("not ready: %s", self._why)
            return
        with self._changed:
            self._loaded, self._why = loaded, ""
            if self._stopping:
                return
        for _ in range(self.settings.pipelines):
            self._spawn(self._work)
        LOG.info("ready: model '%s', index '%s'", self.settings.model, judge.index.name)

    def reload(self) -> None:
        """Open the index again. If it cannot be used, nothing is served until the next reload."""
        from anechoic.protection import Judge

        loaded = self._loaded
        if loaded is None:
            return
        try:
            judge = Judge.load(self.settings.index_name)
            _require_match(loaded.pipe, judge, self._arguments(loaded.pipe, None))
        except Exception as error:
            self._why = f"the index could not be loaded again ({error})"
            LOG.exception("not ready: %s", self._why)
            return
        self._loaded, self._why = _Loaded(loaded.pool, loaded.pipe, judge), ""
        LOG.info("the index was loaded again: '%s'", judge.index.name)

    def stop(self) -> None:
        """Take no more requests, finish those that are here, and end."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        if self._loaded is not None:
            self._loaded.pool.close()

    def unready(self) -> str:
        """Why nothing can be generated and verified now; empty: it can."""
        if self._stopping:
            return "the service is being stopped"
        loaded = self._loaded
        if self._why or loaded is None:
            return self._why
        return loaded.judge.unable()

    def judge(self) -> Judge:
        """What verifies.

        Raises:
            NotReady: nothing can be verified.
        """
        return self._ready().judge

    def _ready(self) -> _Loaded:
        if why := self.unready():
            LOG.warning("not served: %s", why)
            raise NotReady(CLOSED)
        assert self._loaded is not None
        return self._loaded

    # ---------------------------------------------------------------------------- the queue

    def waiting(self) -> int:
        """Sounds that wait for a pipeline."""
        with self._changed:
            return sum(job.count for job in self._waiting if not job.done.done())

    def submit(self, job: Job) -> None:
        """Have a job done; `job.done` tells when it is.

        Raises:
            NotReady: nothing can be verified.
            Busy: too many wait, or so many that it would not be done by its deadline.
            BadSetting: a length that the model does not make.
        """
        loaded = self._ready()
        self._arguments(loaded.pipe, job.seconds)
        with self._changed:
            waiting = sum(one.count for one in self._waiting if not one.done.done())
            if waiting + job.count > self.settings.queue:
                raise Busy(
                    f"{waiting} sounds wait, at most {self.settings.queue} may; try again later",
                    self._wait(waiting),
                )
            ready = self._wait(waiting + job.count)
            if waiting and ready > job.deadline_s:
                raise Busy(
                    f"{waiting} sounds wait; this one would be ready in about {ready:.0f} s, after "
                    f"its deadline of {job.deadline_s:g} s; try again later, or allow it more time",
                    ready - job.deadline_s,
                )
            if self._stopping:
                raise NotReady(CLOSED)
            self._waiting.append(job)
            self._changed.notify()

    def _wait(self, count: int) -> float:
        """About how many seconds it takes until so many sounds that wait are made, by what sounds
        took lately; what is under way is halfway there on average."""
        return (count + self._underway / 2) * (self._seconds or 0.0) / self.settings.pipelines

    def _next(self) -> list[Job]:
        """Jobs to be done at once; none: the service ends."""
        with self._changed:
            while True:
                while self._waiting and self._waiting[0].done.done():
                    self._waiting.popleft()
                if self._waiting:
                    break
                if self._stopping:
                    return []
                self._changed.wait()
            first, left, batch, count = self._waiting[0], deque[Job](), [], 0
            for job in self._waiting:
                if job.done.done():
                    continue
                if job.fits(first) and count + job.count <= self.settings.batch:
                    batch.append(job)
                    count += job.count
                else:
                    left.append(job)
            self._waiting = left
            self._underway += count
            return batch

    # --------------------------------------------------------------------------- generating

    def _work(self) -> None:
        """Do jobs until the service ends, whatever goes wrong with one of them."""
        while batch := self._next():
            try:
                self._make(batch)
            except _Abandoned:
                LOG.info("a batch was abandoned: nobody waited for it")
            except AnechoicError as error:
                self._fail(batch, error)
            except BaseException as error:
                LOG.exception("a batch failed")
                self._fail(batch, error)
            finally:
                with self._changed:
                    self._underway -= sum(job.count for job in batch)

    @staticmethod
    def _fail(batch: Sequence[Job], error: BaseException) -> None:
        if not isinstance(error, BadSetting):  # what was asked can be the cause of that alone
            LOG.error("not served: %s", error)
            error = NotReady(CLOSED)
        for job in batch:
            job.end(error)

    def _make(self, batch: Sequence[Job]) -> None:
        from anechoic import protect

        loaded, first = self._loaded, batch[0]
        if loaded is None or self._why:
            raise NotReady(self._why)
        places = [(job, number) for job in batch for number in range(job.count)]
        start = time.monotonic()
        with TemporaryDirectory(prefix="anechoic-serve-") as folder, loaded.pool.pipeline() as own:
            own.progress_bar = self._steps(batch)

            def ended(sound: ProtectedSound) -> None:
                job, number = places[sound.number - 1]
                self._end(job, number, sound)

            protect(
                own,
                loaded.judge,
                [job.prompt for job, _ in places],
                on_copy=first.policy,
                guard_first=self.settings.guard_first,
                seed=[seed for job in batch for seed in job.seeds],
                arguments=self._arguments(own, first.seconds),
                batch_size=len(places),
                files=[
                    Path(folder) / str(place) / f"sound{job.suffix}"
                    for place, (job, _) in enumerate(places)
                ],
                certificates=True,
                log_prompts=self.settings.log_prompts,
                progress=ended,
            )
        self.metrics.batch.observe(len(places))
        took = (time.monotonic() - start) / len(places)
        self._seconds = took if self._seconds is None else 0.8 * self._seconds + 0.2 * took

    def _end(self, job: Job, number: int, sound: ProtectedSound) -> None:
        """One sound of a job has its verdict; the last one answers the job."""
        from anechoic.certificate import sidecar

        made = Made(sound)
        if sound.file is not None:
            certificate = json.loads(sidecar(sound.file).read_text("utf-8"))
            made = Made(sound, sound.file.read_bytes(), certificate)
        try:
            self.log.sound(number + 1, sound, {"request": job.request, "key": job.owner})
        except OSError as error:
            LOG.error("the audit log '%s' cannot be written: %s", self.log.file, error)
            job.end(NotReady(UNLOGGED))
            return
        self.metrics.sound(sound)
        job.made[number] = made
        job.progress("sound", {"sound": number + 1, "verdict": sound.verdict})
        if len(job.made) == job.count:
            job.end([job.made[place] for place in range(job.count)])

    def _steps(self, batch: Sequence[Job]) -> Callable[..., Any]:
        """What a pipeline draws its steps with: tells them, and ends what nobody waits for."""
        generation = 0

        @contextmanager
        def steps(total: int | None = None, **_: Any) -> Iterator[Any]:
            nonlocal generation
            generation, done = generation + 1, 0

            def update(count: int = 1) -> None:
                nonlocal done
                done += count
                left = [job for job in batch if not job.done.done()]
                if not left:
                    raise _Abandoned
                for job in left:
                    job.progress("step", {"attempt": generation, "step": done, "of": total})

            yield SimpleNamespace(update=update)

        return steps

    def _arguments(self, pipe: Any, seconds: float | None) -> dict[str, Any]:
        """What the pipeline is called with.

        Raises:
            BadSetting: a length that the model does not make.
        """
        from anechoic.diffusers.pipelines import call_arguments
        from anechoic.models import SCALE, find

        known = find(self.settings.model)
        scale = self.settings.scale or known.scale or SCALE
        return call_arguments(pipe, scale, self.settings.steps or known.steps, seconds)

    # ----------------------------------------------------------------------------- checking

    def check(self, content: bytes, owner: str, request: str) -> dict[str, Any]:
        """The verdict on a sound file in memory, and its certificate if it is no copy.

        Raises:
            NotReady: it could not be judged, or not be logged.
            BadAudio: it is not usable sound, or too long.
        """
        from anechoic import audio
        from anechoic.certificate import Provenance, certify, samples_sha256

        judge, certificate = self.judge(), None
        wav, rate = audio.read_bytes(content, "the sound", longest_s=self.settings.longest_s)
        audio.require_sound(audio.mono(wav[None], rate), "the sound without its constant offset")
        judgement, judged = judge(wav, rate), samples_sha256(wav)
        if judgement.status == "no copy":
            verdicts = list(judgement.verdicts.values())
            with TemporaryDirectory(prefix="anechoic-serve-") as folder:
                file = Path(folder) / "sound"
                file.write_bytes(content)
                written = certify(file, verdicts, judge.index, Provenance(), judged=judged)
                certificate = json.loads(written.read_text("utf-8"))
        self._log_check(judgement, judged, {"request": request, "key": owner})
        self.metrics.checks.labels(judgement.status).inc()
        if judgement.status == "not judged":
            LOG.warning("a file was not judged: %s", judgement.why())
            raise NotReady(CLOSED)
        detectors = shown(judgement)
        return {"verdict": judgement.status, "detectors": detectors, "certificate": certificate}

    def note(self, about: dict[str, Any]) -> None:
        """Log what is no attempt and no check; nothing leaves after it, so it may fail."""
        try:
            self.log.event(about)
        except OSError as error:
            LOG.error("the audit log '%s' cannot be written: %s", self.log.file, error)

    def _log_check(self, judgement: Judgement, sound: str, about: dict[str, str]) -> None:
        try:
            self.log.event(
                {**about, "checked": sound, "verdict": judgement.status, "why": judgement.why()}
            )
        except OSError as error:
            LOG.error("the audit log '%s' cannot be written: %s", self.log.file, error)
            raise NotReady(UNLOGGED) from error


def shown(judgement: Judgement) -> list[dict[str, Any]]:
    """What each detector says, without the training clip: that is the operator's to show."""
    return [
        {
            "detector": name,
            "verdict": verdict.status,
            "score": None if verdict.clip is None else verdict.score,
            "limit": None if verdict.rule is None else verdict.rule.threshold,
            "p_value": verdict.p_value,
        }
        for name, verdict in judgement.verdicts.items()
    ]


def load_named(settings: Settings, index: TrainingIndex | None = None) -> tuple[Any, Judge]:
    """The pipeline and the judge that the settings name.

    Args:
        settings: of the operator.
        index: the one that they name, if it is open already.

    Raises:
        AnechoicError: they cannot be loaded, or do not belong together.
    """
    from anechoic.diffusers.loading import load_pipeline
    from anechoic.models import find
    from anechoic.protection import Judge

    judge = Judge.load(settings.index_name, index=index)
    pipe = load_pipeline(find(settings.model).pipeline, settings.device, settings.dtype)
    return pipe, judge


def _require_match(pipe: Any, judge: Judge, arguments: dict[str, Any]) -> None:
    """Refuse an index of another model, or a model that cannot be guarded.

    Raises:
        AnechoicError: it is one.
    """
    from anechoic.protection.pipeline import PipelineGenerator

    if why := judge.unable():
        raise NotReady(why)
    PipelineGenerator(pipe, arguments).guidance(None, judge.index, judge.verifier.embedder)
