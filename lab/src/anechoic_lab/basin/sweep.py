"""Measures the attraction basin: similarity against the step at which guidance starts.

Each prompt and seed is run once under plain classifier-free guidance. For each weaker guidance
(zero, opposite), further runs use it until some step and classifier-free guidance from there on.
The basin ends where similarity falls as that step moves later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from anechoic import audio
from anechoic.diffusers import fingerprint
from anechoic.diffusers.generate import generate as generate_samples
from anechoic.diffusers.loading import load_pipeline
from anechoic.diffusers.pipelines import adapter_for, call_arguments
from anechoic.engine.model import require_own_index
from anechoic.errors import BadSetting
from anechoic.guidance import ClassifierFree, Progress, TransitionPoint
from anechoic.guidance.base import Guidance
from anechoic.guidance.step import Record
from anechoic.guidance.triggers import first_fall, first_minimum
from anechoic.verdict import Rule, Verifier
from anechoic_lab.bench.judges import describe
from anechoic_lab.bench.task import MEMORIZED, BenchPrompt

ORDINARY = "ordinary"
FALL = 0.5  # a run is at the edge of the basin once ||c - u|| is under this share of its maximum
ANY_SCALE = 2.0  # passed to the pipeline and not used: inside a guard the guidance sets the scale


# -------------------------------------------------------------------------------- what can be swept


@dataclass(frozen=True)
class ScoredBatch:
    """A generated batch with its scores."""

    scores: Sequence[Mapping[str, float]]  # one mapping a clip, by judge
    records: Sequence[Record]  # one for each evaluation of the denoiser


class Generate(Protocol):
    """Generate and score one clip per prompt, each from its own generator with this seed."""

    def __call__(self, captions: Sequence[str], seed: int, guidance: Guidance) -> ScoredBatch: ...


@dataclass(frozen=True)
class Scorer:
    """A measure of how near a clip is to the training set; higher is nearer."""

    name: str
    about: str  # what is compared with what
    rule: Rule | None  # decides whether a clip is a copy; None: not calibrated

    @property
    def threshold(self) -> float | None:
        """The score above which a clip is a copy; None: not calibrated."""
        return None if self.rule is None else self.rule.threshold

    def is_copy(self, score: float) -> bool:
        """Whether a score is that of a copy; always False without a calibration."""
        return self.rule is not None and self.rule.is_copy(score)


@dataclass(frozen=True, eq=False)
class SweepTask:
    """A model with its prompts and judges, ready to be swept."""

    generate: Generate
    judges: Sequence[Scorer]  # `generate` scores by their names; the first one decides
    prompts: Sequence[BenchPrompt]  # groups "memorized" and "ordinary"
    scale: float  # classifier-free guidance scale
    batch: int
    about: Mapping[str, str]


# ------------------------------------------------------------------------------------------ results


@dataclass(frozen=True)
class SweptSample:
    """One generation: guidance `before` until evaluation `step`, classifier-free from there on.

    Step 0 is plain classifier-free guidance; at the last step, `before` applies to the whole run.
    """

    prompt: str  # the id of its `BenchPrompt`
    group: str
    seed: int
    before: float
    step: int
    scores: Mapping[str, float]  # by judge


@dataclass(frozen=True)
class Course:
    """The distance between the two predictions along one run, and where it falls.

    As eps = (x - alpha*x0)/sigma, d_t = ||eps_c - eps_u|| is ||c - u|| * alpha/sigma.
    """

    prompt: str
    group: str
    seed: int
    guidance: float  # the scale during the whole run
    distance: Sequence[float]  # d_t at each evaluation
    norm: Sequence[float]  # ||c - u|| of the x0 estimates
    minimum: int | None  # the paper's dynamic transition: first local minimum of d_t, if any
    fall: int | None  # first evaluation with ||c - u|| under `FALL` of its maximum so far


@dataclass(frozen=True)
class Sweep:
    """The measurements of a sweep."""

    scale: float
    befores: Sequence[float]
    steps: Sequence[int]  # the sampled steps, from 0 to the number of evaluations
    log_snr: Sequence[float]  # at each evaluation
    seeds: Sequence[int]
    prompts: Sequence[BenchPrompt]
    takes: Sequence[SweptSample]  # one for each prompt, seed, `before` and step
    courses: Sequence[Course]  # one for each prompt and seed, under `scale` and each of `befores`


def sweep(
    generate: Generate,
    prompts: Sequence[BenchPrompt],
    seeds: Sequence[int],
    *,
    scale: float,
    befores: Sequence[float] = (0.0, -1.0),
    points: int = 12,
    batch: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Sweep:
    """Generate and score every prompt with guidance starting at every sampled step.

    Args:
        generate: generates and scores clips; its results depend only on its arguments.
        prompts: prompts of the groups "memorized" and "ordinary".
        seeds: seeds of the noise; every prompt is run with each.
        scale: classifier-free guidance scale, once it starts.
        befores: guidance scales until then; 0 is zero CFG, a negative one opposite guidance.
        points: how many steps are sampled, evenly from 0 (plain guidance) to the last (guidance
            never starts).
        batch: clips generated at once.
        progress: called with the number of finished clips and the total.

    Raises:
        BadSetting: no memorized prompt or no seed, or a duplicate; an unknown group; fewer than two
            points; a guidance before the start that is not weaker than `scale`.

    Source: Jain et al., 2025 (arXiv:2411.16738), figures 2 to 4.
    """
    require_prompts(prompts)
    _require_distinct("seeds", seeds)
    _require_distinct("guidances before the start", befores)
    if not all(before < scale for before in befores):
        raise BadSetting(f"guidance before the start must be weaker than {scale:g}, got {befores}")
    if points < 2 or batch < 1:
        raise BadSetting(
            f"expected two points and a batch of one at least, got {points} and {batch}"
        )
    takes: list[SweptSample] = []
    courses: list[Course] = []
    done = 0
    for seed in seeds:
        for part in (prompts[i : i + batch] for i in range(0, len(prompts), batch)):
            captions = [prompt.caption for prompt in part]
            plain = generate(captions, seed, ClassifierFree(scale))
            log_snr = [record.noise.log_snr for record in plain.records]
            steps = spaced(len(log_snr), points)
            runs = {(before, step): plain for before in befores for step in steps}
            total = len(prompts) * len(seeds) * (1 + len(befores) * (len(steps) - 1))
            progress(done := done + len(part), total)
            for before, step in runs:
                if step:
                    at = Progress(step / len(log_snr))
                    transition = TransitionPoint(scale, before, at, both_halves=True)  # for d_t
                    runs[before, step] = generate(captions, seed, transition)
                    progress(done := done + len(part), total)
            constant = {scale: plain} | {before: runs[before, steps[-1]] for before in befores}
            takes += _takes(part, seed, runs)
            courses += _courses(part, seed, constant)
    return Sweep(scale, befores, steps, log_snr, list(seeds), prompts, takes, courses)


def spaced(evaluations: int, points: int) -> list[int]:
    """Steps as evenly spaced as whole numbers allow, from 0 to the number of evaluations.

    >>> spaced(50, 6), spaced(3, 12)
    ([0, 10, 20, 30, 40, 50], [0, 1, 2, 3])
    """
    return sorted({round(i * evaluations / (points - 1)) for i in range(points)})


def require_prompts(prompts: Sequence[BenchPrompt]) -> None:
    """Refuse prompts that cannot be swept.

    Raises:
        BadSetting: an unknown group, no memorized prompt, or a duplicate.
    """
    strange = {prompt.group for prompt in prompts} - {MEMORIZED, ORDINARY}
    if strange:
        raise BadSetting(
            f"expected prompts that are {MEMORIZED} or {ORDINARY}, got {', '.join(sorted(strange))}"
        )
    if MEMORIZED not in {prompt.group for prompt in prompts}:
        raise BadSetting("expected one memorized prompt or more, got none; name one")
    _require_distinct("prompts", [prompt.id for prompt in prompts])


def _require_distinct(name: str, values: Sequence[Any]) -> None:
    if not values or len(set(values)) < len(values):
        raise BadSetting(f"expected one or more {name}, each once, got {list(values)}")


def _takes(
    part: Sequence[BenchPrompt], seed: int, runs: Mapping[tuple[float, int], ScoredBatch]
) -> Iterator[SweptSample]:
    for (before, step), batch in runs.items():
        for prompt, scores in zip(part, batch.scores, strict=True):
            yield SweptSample(prompt.id, prompt.group, seed, before, step, dict(scores))


def _courses(
    part: Sequence[BenchPrompt], seed: int, constant: Mapping[float, ScoredBatch]
) -> Iterator[Course]:
    for guidance, batch in constant.items():
        distance = zip(*(record.distances for record in batch.records), strict=True)
        norm = zip(*(record.norms for record in batch.records), strict=True)
        for prompt, distances, norms in zip(part, distance, norm, strict=True):
            yield Course(
                prompt=prompt.id,
                group=prompt.group,
                seed=seed,
                guidance=guidance,
                distance=list(distances),
                norm=list(norms),
                minimum=first_minimum(distances),
                fall=first_fall(norms, FALL),
            )


# ----------------------------------------------------------------------------- a pipeline as a task


def open_scene(
    model: str,
    index: str,
    prompts: Sequence[BenchPrompt],
    *,
    scale: float = 7.0,
    steps: int | None = None,
    seconds: float | None = None,
    batch: int = 1,
    device: str | None = None,
    dtype: str = "float32",
) -> SweepTask:
    """Any pipeline, scored by the similarity to the nearest training clip of its index.

    Args:
        model: folder or hub id of a diffusers pipeline.
        index: folder of the index of its training set.
        prompts: prompts of the groups "memorized" and "ordinary".
        scale: classifier-free guidance scale.
        steps: denoising steps, by default the pipeline's own.
        seconds: length of the sound, by default the model's longest.
        batch: clips generated at once.
        device, dtype: as `load_pipeline`.

    Raises:
        IndexMismatch: the index belongs to another model's training set.
        AnechoicError: the model, the index or a setting cannot be used.
    """
    require_prompts(prompts)
    verifier = Verifier.load(index)
    pipe = load_pipeline(model, device, dtype)
    pipe.set_progress_bar_config(disable=True)
    store, own = verifier.index, fingerprint(pipe)
    require_own_index(store, lambda: own)
    arguments = call_arguments(pipe, ANY_SCALE, steps, seconds)
    sample_rate = adapter_for(pipe).sample_rate
    judge = Scorer(verifier.embedder.name, f"nearest of {describe(verifier)}", verifier.rule)

    def generate(captions: Sequence[str], seed: int, guidance: Guidance) -> ScoredBatch:
        made = generate_samples(pipe, captions, seed, arguments, guidance)
        for wav, caption in zip(made.samples, captions, strict=True):
            audio.require_sound(wav, f"the sound generated for '{caption}'")
        scores = [{judge.name: verifier(wav, sample_rate).score} for wav in made.samples]
        return ScoredBatch(scores, made.records)

    length = "the model's longest" if seconds is None else f"{seconds:g} s"
    about = {"model": f"{model} ({own}), {dtype} on {pipe.device.type}, {length}"}
    return SweepTask(generate, [judge], prompts, scale, batch, about)
