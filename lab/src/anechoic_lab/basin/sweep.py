"""The attraction basin, measured: similarity against the step at which guidance starts.

For each prompt and seed there is a run of plain classifier-free guidance, and for each weaker
guidance (zero, opposite) runs that hold it until a step and follow classifier-free guidance from
there on. Where similarity falls as that step moves on, the basin ends.
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
FALL = 0.5  # share of its maximum under which ||c - u|| is at the edge of the basin
ANY_SCALE = 2.0  # what a pipeline is called with: inside a guard the guidance owns the scale


# -------------------------------------------------------------------------------- what can be swept


@dataclass(frozen=True)
class ScoredBatch:
    """A batch that was generated and judged."""

    scores: Sequence[Mapping[str, float]]  # of each clip, by judge
    records: Sequence[Record]  # of each evaluation of the network


class Generate(Protocol):
    """Generate and judge one clip a prompt, each from a generator of its own at this seed."""

    def __call__(self, captions: Sequence[str], seed: int, guidance: Guidance) -> ScoredBatch: ...


@dataclass(frozen=True)
class Scorer:
    """A measure of how near a clip is to the training set; higher is nearer."""

    name: str
    about: str  # what is compared with what
    rule: Rule | None  # by which a clip is a copy; None: not calibrated

    @property
    def threshold(self) -> float | None:
        """The score that a copy exceeds; None: not calibrated."""
        return None if self.rule is None else self.rule.threshold

    def is_copy(self, score: float) -> bool:
        """Whether a score is that of a copy; False where nothing is calibrated."""
        return self.rule is not None and self.rule.is_copy(score)


@dataclass(frozen=True, eq=False)
class SweepTask:
    """A model with its prompts and judges, ready to be swept."""

    generate: Generate
    judges: Sequence[Scorer]  # `generate` scores by their names; the first is the one that tells
    prompts: Sequence[BenchPrompt]  # of the groups "memorized" and "ordinary"
    scale: float  # of classifier-free guidance
    batch: int
    about: Mapping[str, str]


# ----------------------------------------------------------------------------------- what comes out


@dataclass(frozen=True)
class SweptSample:
    """One generation: guidance `before` until evaluation `step`, classifier-free from there on.

    Step 0 is plain classifier-free guidance; the last step is `before` all along.
    """

    prompt: str  # the id of its `BenchPrompt`
    group: str
    seed: int
    before: float
    step: int
    scores: Mapping[str, float]  # by judge


@dataclass(frozen=True)
class Course:
    """How far the two halves of the network are apart along one run, and where that changes.

    As eps = (x - alpha*x0)/sigma, d_t = ||eps_c - eps_u|| is ||c - u|| * alpha/sigma.
    """

    prompt: str
    group: str
    seed: int
    guidance: float  # the scale that was held all along
    distance: Sequence[float]  # d_t at each evaluation
    norm: Sequence[float]  # ||c - u|| of the x0 estimates
    minimum: int | None  # the paper's dynamic transition, first local minimum of d_t; None: none
    fall: int | None  # first evaluation with ||c - u|| under `FALL` of its maximum so far


@dataclass(frozen=True)
class Sweep:
    """All that a sweep measured."""

    scale: float
    befores: Sequence[float]
    steps: Sequence[int]  # sampled ones, from 0 to the number of evaluations
    log_snr: Sequence[float]  # at each evaluation
    seeds: Sequence[int]
    prompts: Sequence[BenchPrompt]
    takes: Sequence[SweptSample]  # of every prompt, seed, `before` and step
    courses: Sequence[Course]  # of every prompt and seed, under `scale` and each of `befores`


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
    """Generate and judge every prompt with guidance starting at every sampled step.

    Args:
        generate: makes and judges clips; its answers depend on its arguments alone.
        prompts: of the groups "memorized" and "ordinary".
        seeds: of the noise; every prompt under each.
        scale: of classifier-free guidance, once it starts.
        befores: the guidance until then; 0 is zero CFG, a negative one opposite guidance.
        points: how many steps are sampled, evenly from 0 (plain guidance) to the last (guidance
            never starts).
        batch: clips that are generated at once.
        progress: called with the number of clips that are done, and of all.

    Raises:
        BadSetting: no memorized prompt, no seed, or one of them twice; an unknown group; fewer than
            two points; a guidance before the start that is not weaker than `scale`.

    Source: Jain et al., 2025 (arXiv:2411.16738), figures 2 to 4.
    """
    require_prompts(prompts)
    _require_distinct("seeds", seeds)
    _require_distinct("guidances before the start", befores)
    if not all(before < scale for before in befores):
        raise BadSetting(f"guidance before the start is weaker than {scale:g}, got {befores}")
    if points < 2 or batch < 1:
        raise BadSetting(f"two points and a batch of one at least, got {points} and {batch}")
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
            held = {scale: plain} | {before: runs[before, steps[-1]] for before in befores}
            takes += _takes(part, seed, runs)
            courses += _courses(part, seed, held)
    return Sweep(scale, befores, steps, log_snr, list(seeds), prompts, takes, courses)


def spaced(evaluations: int, points: int) -> list[int]:
    """So many steps, as even as whole numbers are, from 0 to the number of evaluations.

    >>> spaced(50, 6), spaced(3, 12)
    ([0, 10, 20, 30, 40, 50], [0, 1, 2, 3])
    """
    return sorted({round(i * evaluations / (points - 1)) for i in range(points)})


def require_prompts(prompts: Sequence[BenchPrompt]) -> None:
    """Refuse prompts that cannot be swept.

    Raises:
        BadSetting: an unknown group, no memorized prompt, or one that is there twice.
    """
    strange = {prompt.group for prompt in prompts} - {MEMORIZED, ORDINARY}
    if strange:
        raise BadSetting(f"prompts are {MEMORIZED} or {ORDINARY}, got {', '.join(sorted(strange))}")
    if MEMORIZED not in {prompt.group for prompt in prompts}:
        raise BadSetting("a memorized prompt or more was expected, got none: name one")
    _require_distinct("prompts", [prompt.id for prompt in prompts])


def _require_distinct(name: str, values: Sequence[Any]) -> None:
    if not values or len(set(values)) < len(values):
        raise BadSetting(f"one or more {name} were expected, each once, got {list(values)}")


def _takes(
    part: Sequence[BenchPrompt], seed: int, runs: Mapping[tuple[float, int], ScoredBatch]
) -> Iterator[SweptSample]:
    for (before, step), heard in runs.items():
        for prompt, scores in zip(part, heard.scores, strict=True):
            yield SweptSample(prompt.id, prompt.group, seed, before, step, dict(scores))


def _courses(
    part: Sequence[BenchPrompt], seed: int, held: Mapping[float, ScoredBatch]
) -> Iterator[Course]:
    for guidance, heard in held.items():
        distance = zip(*(record.distances for record in heard.records), strict=True)
        norm = zip(*(record.norms for record in heard.records), strict=True)
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


# ----------------------------------------------------------------------------- any model as a scene


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
    """Any pipeline, judged by the similarity of its index to the nearest training clip.

    Args:
        model: folder or hub id of a diffusers pipeline.
        index: folder of the index of its training set.
        prompts: of the groups "memorized" and "ordinary".
        scale: of classifier-free guidance.
        steps: of the sampler, by default the pipeline's own.
        seconds: length of the sound, by default the model's longest.
        batch: clips that are generated at once.
        device, dtype: as `load_pipeline`.

    Raises:
        IndexMismatch: the index is of another model's training set.
        AnechoicError: anything else of it that cannot be used.
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
            audio.require_sound(wav, f"what was generated for '{caption}'")
        scores = [{judge.name: verifier(wav, sample_rate).score} for wav in made.samples]
        return ScoredBatch(scores, made.records)

    length = "the model's longest" if seconds is None else f"{seconds:g} s"
    about = {"model": f"{model} ({own}), {dtype} on {pipe.device.type}, {length}"}
    return SweepTask(generate, [judge], prompts, scale, batch, about)
