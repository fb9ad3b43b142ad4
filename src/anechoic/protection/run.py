"""protect(): generate, verify, try again, and refuse."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from anechoic import audio, containers
from anechoic.certificate import (
    KeptPrompt,
    Provenance,
    SigningKey,
    certify,
    samples_sha256,
    sidecar,
)
from anechoic.certificate.content import Kept
from anechoic.errors import BadSetting, CannotWrite, NotReleased, OutputExists
from anechoic.guidance.base import Guidance
from anechoic.guidance.registry import settings_as_text
from anechoic.protection.generators import FunctionGenerator, Generator, Take
from anechoic.protection.judge import JointJudge, Judge, Judgement, clause, judge_over
from anechoic.protection.log import AttemptLog
from anechoic.protection.policy import Kind, Policy, seed_of_attempt
from anechoic.protection.result import Attempt, Outcome, ProtectedSound, Protection, limits, promise
from anechoic.storage import whole_file
from anechoic.types import parts_of
from anechoic.verdict import Verifier

DEFAULT = ("retry", "guard", "refuse")
LOWER = 0.1  # without a calibration, how much lower each stronger guard's threshold is


def protect(
    model: Any,
    index: str | Path | Judge | JointJudge | Sequence[str | Path | Judge],
    prompts: str | Sequence[str],
    *,
    on_copy: str | Sequence[str] | None = None,
    guidance: Guidance | None = None,
    guard_first: bool = False,
    seed: int | Sequence[int] = 0,
    arguments: Mapping[str, Any] | None = None,
    sample_rate: int | None = None,
    batch_size: int = 1,
    allow_unjudged: bool = False,
    files: Sequence[str | Path] | None = None,
    overwrite: bool = False,
    certificates: bool | SigningKey = False,
    log: str | Path | None = None,
    hits: str | Path | None = None,
    log_prompts: Kept = "clear",
    progress: Callable[[ProtectedSound], None] = lambda sound: None,
) -> Protection:
    """Generate sound, and let nothing leave that is above the limit of a detector.

    Each finished sound is verified, and while it is a copy, or cannot be judged, the next step is
    taken: a new seed ("retry"), the guard ("guard"), the guard at a lower threshold ("stronger").
    In the end it is refused ("refuse"), or `NotReleased` is raised ("raise"), or it leaves all the
    same and is called a copy ("report"). Each step is one attempt; "retry:3" is three. A step keeps
    what the one before it used: a retry after a guard is guarded.

    Where nothing can be judged, as without a calibration, by a detector that fails, or of silence,
    nothing leaves. What fails while it is generated is an attempt that gave nothing.

    Args:
        model: a diffusers pipeline that `guard` knows, or a function of a prompt and a seed that
            returns sound [channels, samples], or a pair of it and its rate. `generators.external`
            makes such a function of a command line or an endpoint.
        index: the folder of the training set's index, or a `Judge` over one, which is not opened
            again for each call; or several of them, as for a model and its LoRA.
        prompts: one, or several; each stands for itself, in a batch as alone.
        on_copy: the steps; None: "retry", "guard" and "refuse", without the guard if there is none.
        guidance: the guard; None: the one that sets itself by the index.
        guard_first: guard the first attempt as well. It costs time on every prompt, and saves
            attempts on memorized ones.
        seed: of the first attempt, for all prompts or one for each. Those of the other attempts are
            derived from it, and each attempt records its own.
        arguments: of the pipeline's calls, such as num_inference_steps and guidance_scale.
        sample_rate: in Hz, for a function that returns sound alone.
        batch_size: prompts that a pipeline generates at once.
        allow_unjudged: let out what could not be judged; its verdict says so.
        files: a file for each prompt, written once it may leave. What is verified is then what the
            file holds, rounding and compression included.
        overwrite: replace these files.
        certificates: write a certificate beside each file; a signing key also signs it inside the
            file (`anechoic.certificate.certify`).
        log: a JSON-lines file, to which each attempt is appended.
        hits: likewise for each copy.
        log_prompts: how logs and certificates show them: "clear", "hashed" (their SHA-256, not
            salted) or "left out".
        progress: called with each result.

    Returns:
        One result for each prompt, and what is promised about them.

    Raises:
        NotReleased: the policy ends in "raise", and an output may not leave.
        BadSetting: settings that do not fit together, such as a guard step for a function, or
            several attempts by one that takes no seed.
        OutputExists: a file is there already.
        IndexMismatch: no usable index, or another model's.
        UnsupportedPipeline: a pipeline that `guard` does not know.
        CannotWrite, OSError: a file or a log cannot be written.

    Example: `protect(pipe, "clips.index", "low cello note", on_copy=("retry:3", "refuse"))`
    """
    asked = [prompts] if isinstance(prompts, str) else list(prompts)
    seeds = [seed] * len(asked) if isinstance(seed, int) else list(seed)
    targets = [None] * len(asked) if files is None else [Path(file) for file in files]
    for name, values in (("seed", seeds), ("file", targets)):
        if len(values) != len(asked):
            raise BadSetting(
                f"expected a {name} for each of {len(asked)} prompts, got {len(values)}"
            )
    if batch_size < 1:
        raise BadSetting(f"expected a batch_size of 1 or more, got {batch_size}")
    for target in targets:
        _require_free(target, overwrite, bool(certificates))
    judge = judge_over(index)
    if certificates:
        for part in parts_of(judge.index):
            part.stored()  # refused before anything is generated
    policy = Policy.parse(DEFAULT if on_copy is None else on_copy)
    generator = _generator(model, arguments, sample_rate)
    notes: list[str] = []
    guide = None
    if policy.guards or guard_first or guidance is not None:
        found = generator.guidance(guidance, judge.index, judge.verifier.embedder)
        if not isinstance(found, str):
            guide = found
        elif on_copy is None and not guard_first and guidance is None:
            policy = Policy.parse([step for step in DEFAULT if step != "guard"])
            notes.append(f"no attempt is guarded: {found}")
        else:
            raise BadSetting(f"{found}, so no attempt can be guarded; leave the guard steps out")
    if len(policy.attempts) > 1 and not generator.seeded:
        if on_copy is not None:
            raise BadSetting(
                "the generator takes no seed, so another attempt may make the same sound; have it "
                "take one, or give the last step alone, such as 'refuse'"
            )
        policy = Policy.parse("refuse")
        notes.append("each sound has one attempt: the generator takes no seed")
    run = _Run(
        judge,
        generator,
        policy,
        _plan(policy, guide, guard_first, judge.verifier),
        allow_unjudged,
        bool(certificates),
        certificates if isinstance(certificates, SigningKey) else None,
        AttemptLog(
            None if log is None else Path(log),
            None if hits is None else Path(hits),
            log_prompts,
            {"run": datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ"), "index": judge.index.content},
        ),
        progress,
    )
    jobs = [_Job(*one) for one in zip(range(1, len(asked) + 1), asked, seeds, targets, strict=True)]
    run.all(jobs, batch_size)
    steps = (*policy.attempts, policy.end)
    done = [job.result for job in jobs if job.result is not None]
    promised = promise(judge, policy.end, allow_unjudged)
    return Protection(done, promised, steps, limits(judge), notes)


def _require_free(file: Path | None, overwrite: bool, certificates: bool) -> None:
    if file is None:
        if certificates:
            raise BadSetting("a certificate stands beside its file; give files, too")
        return
    containers.writable(file)
    for path in (file, sidecar(file)) if certificates else (file,):
        if path.is_dir() or (path.exists() and not overwrite):
            raise OutputExists.at(path)


def _generator(
    model: Any, arguments: Mapping[str, Any] | None, sample_rate: int | None
) -> Generator:
    """What makes the sound: a pipeline has components, any other callable is a function."""
    if not hasattr(model, "components"):
        if not callable(model):
            kind = type(model).__name__
            raise BadSetting(
                f"expected a pipeline, or a function of a prompt and a seed, got {kind}"
            )
        if arguments:
            raise BadSetting(
                "'arguments' are a pipeline's; have the function hold its own settings"
            )
        return FunctionGenerator(model, sample_rate)
    from anechoic.protection.pipeline import PipelineGenerator  # diffusers takes seconds to import

    if sample_rate is not None:
        raise BadSetting("a pipeline knows the rate of its sound; leave sample_rate out")
    return PipelineGenerator(model, arguments or {})


def _plan(
    policy: Policy, guide: Guidance | None, guard_first: bool, verifier: Verifier
) -> list[tuple[Kind, Guidance | None]]:
    """Each attempt with its guard.

    Raises:
        BadSetting: a stronger guard than one that has no threshold.
    """
    now = guide if guard_first else None
    plan, lowered = [], 0
    for kind in policy.attempts:
        if kind == "guard" and now is None:
            now = guide
        elif kind == "stronger":
            assert guide is not None
            lowered += 1
            now = guide.with_threshold(_threshold(verifier, lowered))
            if now is None:
                raise BadSetting(
                    f"guard {guide.label()} has no threshold, so it has no stronger form; leave "
                    "'stronger' out"
                )
        plan.append((kind, now))
    return plan


def _threshold(verifier: Verifier, lowered: int) -> float:
    """The similarity at which a stronger guard begins to act: the median of held-out sound, then
    its lower quartile, and so on; without a calibration, some way below the limit."""
    known, rule = verifier.calibration, verifier.rule
    if known is not None:
        return known.quantile(0.5**lowered)[0]
    limit = 1.0 if rule is None else rule.threshold
    return max(limit - LOWER * lowered, -1.0)


@dataclass
class _Job:
    """One prompt on its way."""

    number: int
    prompt: str
    seed: int
    file: Path | None
    attempts: list[Attempt] = field(default_factory=list)
    result: ProtectedSound | None = None


@dataclass(frozen=True)
class _Run:
    judge: Judge | JointJudge
    generator: Generator
    policy: Policy
    plan: Sequence[tuple[Kind, Guidance | None]]
    allow_unjudged: bool
    certificates: bool
    signing: SigningKey | None
    log: AttemptLog
    progress: Callable[[ProtectedSound], None]

    def all(self, jobs: Sequence[_Job], batch_size: int) -> None:
        for first in range(0, len(jobs), batch_size):
            batch = jobs[first : first + batch_size]
            if not self.allow_unjudged and (unable := self.judge.unable()):
                for job in batch:  # nothing that it generates could leave
                    self._end(job, "not judged", unable)
                continue
            for number, (kind, guide) in enumerate(self.plan):
                if left := [job for job in batch if job.result is None]:
                    self._attempt(left, number, kind, guide)

    def _attempt(
        self, jobs: Sequence[_Job], number: int, kind: Kind, guide: Guidance | None
    ) -> None:
        seeds = [seed_of_attempt(job.seed, number) for job in jobs]
        takes = self.generator([job.prompt for job in jobs], seeds, guide)
        for job, seed, take in zip(jobs, seeds, takes, strict=True):
            start = time.perf_counter()
            content, heard, judgement = self._verify(job, take)
            attempt = Attempt(
                kind,
                seed if self.generator.seeded else None,
                "" if guide is None else guide.label(),
                settings_as_text(guide),
                judgement,
                take.seconds,
                time.perf_counter() - start,
                take.substitute,
            )
            job.attempts.append(attempt)
            outcome = self._outcome(job, heard is not None)
            self.log.add(job.number, job.prompt, attempt, outcome or "next attempt")
            if outcome:
                self._leave(job, outcome, content, heard)

    def _verify(self, job: _Job, take: Take) -> tuple[bytes, tuple[Tensor, int] | None, Judgement]:
        """The content of the file, the sound that it holds, and what the detectors say of that."""
        if take.wav is None:
            return b"", None, Judgement({}, take.reason)
        content, heard = b"", (take.wav, take.sample_rate)
        if job.file is not None:
            try:
                content = audio.encode(job.file, *heard)
                heard = audio.read_bytes(content, str(job.file), allow_silence=True)
            except Exception as error:  # a codec's own errors too
                return b"", None, Judgement({}, clause(error))
        return content, heard, self.judge(*heard)

    def _outcome(self, job: _Job, usable: bool) -> Outcome | None:
        """What happens with a sound after its latest attempt; None: another one."""
        attempt = job.attempts[-1]
        if attempt.status == "no copy" and usable:
            return "released" if attempt.kind == "first" else "regenerated"
        if attempt.status == "not judged" and usable and self.allow_unjudged:
            return "not judged"
        if len(job.attempts) < len(self.plan):
            return None
        if attempt.status == "copy" and usable and self.policy.end == "report":
            return "reported"
        return "refused" if any(one.status == "copy" for one in job.attempts) else "not judged"

    def _leave(
        self, job: _Job, outcome: Outcome, content: bytes, heard: tuple[Tensor, int] | None
    ) -> None:
        """The end of a job: its sound leaves, or nothing does."""
        reason = job.attempts[-1].judgement.why()
        if outcome == "refused" or (outcome == "not judged" and not self.allow_unjudged):
            heard = None
        if outcome == "refused":
            copies = sum(attempt.status == "copy" for attempt in job.attempts)
            reason = f"{copies} of {len(job.attempts)} attempts were copies, and none may leave"
        if heard is None:
            self._end(job, outcome, reason)
            return
        if job.file is not None:
            _write(job.file, content)
            if self.certificates and outcome in ("released", "regenerated"):
                self._certify(job, job.file, heard[0])
        self._end(job, outcome, reason, heard)

    def _certify(self, job: _Job, file: Path, wav: Tensor) -> None:
        """Write the certificate of a file; without one, the file does not stay."""
        last = job.attempts[-1]
        kept = partial(KeptPrompt.of, kept=self.log.prompts)
        caption = kept(last.substitute) if last.substitute else None
        about = Provenance(
            kept(job.prompt),
            self.generator.model,
            last.seed,
            last.guard or None,
            last.settings,
            len(job.attempts),
            substitute=caption,
        )
        verdicts, judged = list(last.judgement.verdicts.values()), samples_sha256(wav)
        try:
            certify(
                file,
                verdicts,
                self.judge.index,
                about,
                judged=judged,
                signing=self.signing,
                overwrite=True,
            )
        except BaseException:
            file.unlink()
            raise

    def _end(
        self,
        job: _Job,
        outcome: Outcome,
        reason: str = "",
        heard: tuple[Tensor, int] | None = None,
    ) -> None:
        if heard is None and self.policy.end == "raise":
            raise NotReleased(f"nothing is released for sound {job.number}: {reason}")
        wav, sample_rate = heard or (None, 0)
        file = None if heard is None else job.file
        job.result = ProtectedSound(
            job.prompt, outcome, tuple(job.attempts), wav, sample_rate, file, reason, job.number
        )
        self.progress(job.result)


def _write(file: Path, content: bytes) -> None:
    """Write what was verified, and nothing else, whole or not at all.

    Raises:
        CannotWrite: the disk gives back something else.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as part:
        part.write_bytes(content)
        if part.read_bytes() != content:
            raise CannotWrite(f"'{file}' does not hold what was written to it; check the disk")
