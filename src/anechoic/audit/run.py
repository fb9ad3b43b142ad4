"""Runs an audit: generates and examines every sound, and does no finished work again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

from anechoic import audio
from anechoic.audit import describe, samples
from anechoic.audit.cache import AuditCache
from anechoic.audit.examine import SCORERS, Examiner, SampleResult, Scorer
from anechoic.audit.leaks import find_leaks, require_copies
from anechoic.audit.progress import AuditProgress, ProgressTimer
from anechoic.audit.prompts import read_prompts
from anechoic.audit.result import Background, Report, examined
from anechoic.audit.samples import PLAIN, AuditPlan, Generate, Sample, Unexamined
from anechoic.audit.training import TrainingSet
from anechoic.cache import identity
from anechoic.detectors import Calibration, Detector, NearestStretch
from anechoic.engines import Pool, SharedValue
from anechoic.errors import AnechoicError, BadAudio, BadSetting
from anechoic.index import TrainingIndex
from anechoic.types import Embedder
from anechoic.verdict import Rule, find_rule

WORK = Path("audit-work")
LONGEST_S = 900.0
Source = Generate | Mapping[str, Generate] | str | Path
Times = list[tuple[str, float]]  # kind of work, seconds


@dataclass(frozen=True)
class HeldOut:
    """Real sound that is not in the training set but could have been: it shows what chance does."""

    folder: str | Path
    false_positive_rate: float = 0.01


@dataclass(frozen=True)
class Calibrated:
    """The calibrations of detectors on held-out sound."""

    calibrations: Mapping[str, Calibration]  # by the detectors' names, the deciding one first
    unused: Sequence[Unexamined]  # held-out sounds that could not be used
    notes: Sequence[str]  # detectors that could not be calibrated, and why


def audit(
    source: Source,
    index: TrainingIndex | TrainingSet,
    embedder: Embedder,
    *,
    prompts: Sequence[str] | str | Path = (),
    seeds: Sequence[int] = (0,),
    model: str = "",
    detectors: Sequence[Detector] = (),
    scorers: Sequence[Scorer] = SCORERS,
    calibrations: Mapping[str, Calibration] | None = None,
    held_out: HeldOut | None = None,
    threshold: float | None = None,
    false_positive_rate: float | None = None,
    longest_s: float = LONGEST_S,
    about: Mapping[str, str] | None = None,
    work: str | Path = WORK,
    pool: Pool | None = None,
    progress: Callable[[AuditProgress], None] = lambda progress: None,
) -> Report:
    """Compare generated sound with a training set.

    Every generated sound and every result is a file in `work`. An audit that is killed at any
    moment and started again continues from there.

    Without a calibration and without a threshold the sounds are ranked by their scores, and none of
    them is judged.

    Args:
        source: a function of a prompt and a seed that returns sound [c, t] and its sample rate in
            Hz; several of them by the name of their guard; or the folder of sounds made elsewhere.
        index: index of the training set, or a `TrainingSet` that also knows its sound.
        embedder: the one that built the index.
        prompts: prompts to generate from; for a folder, the caption file with its prompts.
        seeds: each prompt is used with each seed.
        model: the name of the generator. Its sounds are stored under it, so change it with the
            model; a generator with an `identity` of its own needs none.
        detectors: detectors that search the training set; the first decides. By default the
            nearest stretch by the embedder.
        scorers: compare with the clips that the detectors find, and with the prompt's own.
        calibrations: by the detectors' names, as returned by `detectors.calibration.read`.
        held_out: calibrate all detectors on this sound.
        threshold: a score from which on a sound is a copy, instead of a calibration.
        false_positive_rate: the known rate of that threshold.
        longest_s: longer sound is listed as not examined.
        about: further facts for the report on how it was made.
        work: folder of finished work.
        pool: generates and examines many sounds at once: processes of this machine
            (`anechoic.processes.Processes`), or tasks of a Ray cluster (`anechoic_ray.tasks`),
            whose machines share that folder and the sounds. On a cluster, a sound whose worker is
            killed is generated and examined again.
        progress: called after each sound.

    Raises:
        BadSetting: no prompts, no name of the model, or a work folder in use.
        BadAudio: the folder does not exist or is empty, or no held-out sound can be used.
        IndexMismatch: another embedder built the index.
    """
    training = index if isinstance(index, TrainingSet) else TrainingSet(index)
    searching = list(detectors) or [NearestStretch(training.index, embedder)]
    plan, generators = _plan(source, prompts, seeds, model)
    run = AuditRun.over(
        training, searching, scorers, Path(work), longest_s, generators, model, pool
    )
    known = dict(calibrations or {})
    facts = dict(about or {})
    decides = searching[0].name
    if held_out is None:  # a threshold that cannot be used is refused before anything is generated
        find_rule(decides, training.index, known, threshold, false_positive_rate)
    null = None if held_out is None else _held_out(held_out)
    with run.cache.alone():
        every = [*(null.samples if null else ()), *plan.samples]
        at_once = 1 if pool is None else pool.count
        timer = ProgressTimer([run.kinds(sample) for sample in every], progress, at_once)
        notes = list(plan.notes)
        if held_out is not None and null is not None:
            found = run.calibrate(null, held_out.false_positive_rate, timer)
            known |= found.calibrations
            used = len(found.calibrations[decides].null)
            facts["held-out sound"] = f"{used} files of {held_out.folder}"
            notes += [
                *found.notes,
                *(f"held-out '{o.sample.name}' was not used: {o.reason}" for o in found.unused),
            ]
        rule = find_rule(decides, training.index, known, threshold, false_positive_rate)
        rows, refused = run.examine(plan.samples, timer)
    notes += _repeated([sha256 for _, sha256, _ in rows])
    return Report(
        examined=examined(rows, decides, rule, known),
        unexamined=[*plan.refused, *refused],
        rule=rule,
        detectors=describe.detectors(searching, scorers, rows, known),
        background=_background(training, searching[0], rule),
        training=training,
        about=describe.about(training, embedder, plan, generators, model, facts),
        notes=notes,
        citations=describe.citations(searching, scorers, generators, rule),
        media=run.cache.folder / "media",
        noun="generation" if generators else "file",
        guards=list(dict.fromkeys(sample.guard for sample in plan.samples)),
    )


def calibrate(
    held_out: HeldOut,
    index: TrainingIndex | TrainingSet,
    embedder: Embedder,
    *,
    detectors: Sequence[Detector] = (),
    scorers: Sequence[Scorer] = SCORERS,
    longest_s: float = LONGEST_S,
    work: str | Path = WORK,
    progress: Callable[[AuditProgress], None] = lambda progress: None,
) -> Calibrated:
    """Calibrate detectors on held-out sound once; `detectors.calibration.write` stores the result.

    Args:
        held_out: the sound and the rate; the other arguments, with their defaults, are those of
            `audit`.

    Raises:
        BadSetting: too few sounds for the rate, or a work folder in use.
        BadAudio: the folder does not exist, or nothing in it can be used.
        IndexMismatch: another embedder built the index.
    """
    training = index if isinstance(index, TrainingSet) else TrainingSet(index)
    searching = list(detectors) or [NearestStretch(training.index, embedder)]
    run = AuditRun.over(training, searching, scorers, Path(work), longest_s)
    null = _held_out(held_out)
    with run.cache.alone():
        timer = ProgressTimer([run.kinds(sample) for sample in null.samples], progress)
        return run.calibrate(null, held_out.false_positive_rate, timer)


def _held_out(held_out: HeldOut) -> AuditPlan:
    """The held-out sounds; raises `BadSetting` if they are too few for the rate."""
    plan = samples.recorded(held_out.folder)
    Calibration("the deciding detector", (0.0,) * len(plan.samples), held_out.false_positive_rate)
    return plan


def _plan(
    source: Source, prompts: Sequence[str] | str | Path, seeds: Sequence[int], model: str
) -> tuple[AuditPlan, Mapping[str, Generate]]:
    """All sounds to examine, and the generators by guard; none for a folder."""
    if isinstance(source, (str, Path)):
        if prompts and not isinstance(prompts, (str, Path)):
            raise BadSetting("the prompts of a folder come from a caption file; name the file")
        return samples.recorded(source, prompts or None), {}  # type: ignore[arg-type]
    generators = dict(source) if isinstance(source, Mapping) else {PLAIN: source}
    asked = read_prompts(prompts) if isinstance(prompts, (str, Path)) else prompts
    if not model and not all(hasattr(made, "identity") for made in generators.values()):
        raise BadSetting(
            "sounds are stored under the name of their model, and it has none; give model='NAME', "
            "a different one for each model"
        )
    return samples.generated(generators, asked, seeds), generators


@dataclass(frozen=True, eq=False)
class AuditRun:
    """One run of an audit."""

    cache: AuditCache
    examiner: Examiner
    generators: Mapping[str, Generate]
    model: str
    longest_s: float
    setting: str  # a hash of all that a result depends on, except the sound
    pool: Pool | None = None  # None: one sound after the other, here

    @classmethod
    def over(
        cls,
        training: TrainingSet,
        detectors: Sequence[Detector],
        scorers: Sequence[Scorer],
        work: Path,
        longest_s: float,
        generators: Mapping[str, Generate] | None = None,
        model: str = "",
        pool: Pool | None = None,
    ) -> AuditRun:
        """A run over a training set that continues from `work`."""
        cache = AuditCache(work)
        setting = identity(
            training.fingerprint,
            [detector.name for detector in detectors],
            [scorer.starts for scorer in scorers],
            describe.versions(),
        )
        examiner = Examiner(training, detectors, scorers, cache.add_medium)
        return cls(cache, examiner, generators or {}, model, longest_s, setting, pool)

    def file(self, sample: Sample) -> Path:
        """The file of a generated sound; it is there once the sound is examined."""
        return self.cache.sound(self._identity(sample))

    def kinds(self, sample: Sample) -> list[str]:
        """The kinds of work that a sound may need; each takes its own time."""
        made = sample.file is not None or self.file(sample).exists()
        return ["examine"] if made else [f"make {sample.guard}", "examine"]

    def examine(
        self, todo: Sequence[Sample], timer: ProgressTimer, pictures: bool = True
    ) -> tuple[list[tuple[Sample, str, SampleResult]], list[Unexamined]]:
        """Examine every sound, generated if necessary."""
        rows, refused = [], []
        for sample, find in zip(todo, self._each(todo, timer, pictures), strict=True):
            try:
                rows.append((sample, *find()))
            except BrokenProcessPool as error:  # the other workers ended with it
                raise AnechoicError(
                    "a worker process died, killed or out of memory; finished work is saved: start "
                    "it again, with fewer '--jobs' if memory is short"
                ) from error
            except Exception as error:  # a decoder can raise anything; the sound is listed
                refused.append(Unexamined(sample, samples.reason(error, sample.file)))
            timer.finish()
        return rows, refused

    def calibrate(self, null: AuditPlan, rate: float, timer: ProgressTimer) -> Calibrated:
        """Calibrate every detector on sound that copies nothing.

        Raises:
            BadAudio: no sound can be used.
            BadSetting: too few sounds for the rate, or a threshold above training clips.
        """
        rows, refused = self.examine(null.samples, timer, pictures=False)
        leaks = find_leaks([result for _, _, result in rows], self.examiner)
        refused += [Unexamined(rows[number][0], reason) for number, reason in leaks.items()]
        rows = [row for number, row in enumerate(rows) if number not in leaks]
        unused = [*null.refused, *refused]
        if not rows:
            raise BadAudio(f"no held-out sound can be used: {unused[0].reason}")
        scores: dict[str, list[float]] = {}
        for _, _, result in rows:
            for name, match in result.matches.items():
                scores.setdefault(name, []).extend([match.score] * match.compared)
        seconds = median(result.seconds for _, _, result in rows)
        found, notes = {}, list(null.notes)
        for name, values in scores.items():
            if len(values) == len(rows):
                found[name] = _calibration(
                    name, values, rate, seconds, unused[len(unused) - len(leaks) :]
                )
            else:  # sounds that it cannot compare would count as no copies
                notes.append(
                    f"'{name}' could compare {len(values)} of {len(rows)} held-out sounds, and is "
                    "not calibrated"
                )
        require_copies(found, self.examiner)
        return Calibrated(found, unused, notes)

    # ------------------------------------------------------------------------------ one sound

    def _each(
        self, todo: Sequence[Sample], timer: ProgressTimer, pictures: bool
    ) -> Iterator[Callable[[], tuple[str, SampleResult]]]:
        """A function for each sound that makes and examines it, or waits for its worker."""
        if self.pool is None:
            return (partial(self._one, sample, timer, pictures) for sample in todo)
        run = self.pool.shared(replace(self, pool=None))
        futures = [self.pool.submit(_elsewhere, run, sample, pictures) for sample in todo]
        return (partial(_answer, future, timer) for future in futures)

    def _one(
        self, sample: Sample, timer: ProgressTimer, pictures: bool
    ) -> tuple[str, SampleResult]:
        """The hash of a sound's file, and its result."""
        file = sample.file or self._made(sample, timer)
        sha256 = samples.sha256_of(file)
        name = identity(self.setting, self.longest_s, sha256, sample.prompt, pictures)
        found = self.cache.result(name)
        if found is None:
            with timer.timed("examine"):
                found = self.examiner(
                    *samples.read_sound(file, self.longest_s), sample.prompt, pictures
                )
                self.cache.add_result(name, found)
        first = next(iter(found.matches.values()))
        if math.isinf(first.score):
            raise BadAudio(
                f"'{next(iter(found.matches))}' could not compare it: it is silent, or shorter "
                "than that detector needs"
            )
        return sha256, found

    def _made(self, sample: Sample, timer: ProgressTimer) -> Path:
        """The file of a generated sound, generated if it is missing or damaged."""
        path = self.file(sample)
        if path.exists():
            try:
                audio.read(path, allow_silence=True)
                return path
            except BadAudio:
                path.unlink()
        with timer.timed(f"make {sample.guard}"):
            assert sample.seed is not None
            wav, sample_rate = samples.make(
                self.generators[sample.guard], sample.prompt, sample.seed
            )
            audio.require_sound(wav, "the generated sound")
            audio.write(path, wav, sample_rate)
        return path

    def _identity(self, sample: Sample) -> str:
        generator = self.generators[sample.guard]
        own = getattr(generator, "identity", None) or [self.model, sample.guard]
        return identity(own, sample.prompt, sample.seed)


def _elsewhere(run: SharedValue, sample: Sample, pictures: bool) -> tuple[str, SampleResult, Times]:
    timer = ProgressTimer([], lambda progress: None)
    return *run.value._one(sample, timer, pictures), timer.times


def _answer(
    future: Future[tuple[str, SampleResult, Times]], timer: ProgressTimer
) -> tuple[str, SampleResult]:
    """A worker's result for a sound."""
    sha256, found, times = future.result()
    timer.add(times)
    return sha256, found


def _calibration(
    name: str, scores: Sequence[float], rate: float, seconds: float, left_out: Sequence[Unexamined]
) -> Calibration:
    try:
        return Calibration(name, tuple(scores), rate, seconds=seconds)
    except BadSetting as error:
        if not left_out:
            raise
        first = left_out[0]
        raise BadSetting(
            f"{error}. {len(left_out)} held-out sounds hold training clips and were left out, such "
            f"as '{first.sample.name}': {first.reason}"
        ) from error


def _repeated(hashes: Sequence[str]) -> list[str]:
    """A note on sounds that are identical, bit for bit."""
    if not (again := len(hashes) - len(set(hashes))):
        return []
    return [f"{again} of the {len(hashes)} examined are the same as another, bit for bit"]


def _background(training: TrainingSet, decides: Detector, rule: Rule | None) -> list[Background]:
    """Scores to compare the deciding detector's scores with."""
    found = []
    if isinstance(decides, NearestStretch) and len(training.clips) > 1:
        scores = training.among_themselves()
        found.append(Background("training clips, to the nearest other one", scores))
    if rule is not None and rule.calibration is not None:
        null = [score for score in rule.calibration.null if math.isfinite(score)]
        found.append(Background("held-out sound that copies nothing", null))
    return found
