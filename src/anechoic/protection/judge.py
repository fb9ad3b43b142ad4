"""Whether finished sound may leave: several independent detectors, and one answer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from torch import Tensor

from anechoic.audit.examine import MATCHED, SCORERS, score_clips
from anechoic.audit.training import TrainingSet, fitted, judges_sound
from anechoic.detectors import calibration, registry
from anechoic.detectors.calibration import Calibration
from anechoic.detectors.nearest import NearestStretch
from anechoic.detectors.protocol import NOTHING, Detector
from anechoic.errors import AnechoicError, BadSetting
from anechoic.index import JoinedIndex, TrainingIndex
from anechoic.models import find, index_folder
from anechoic.types import Embedder, Match
from anechoic.verdict import (
    Rule,
    Status,
    Verdict,
    Verifier,
    find_rule,
    together,
    weigh,
    without_rule,
)

NO_SOUND = "the matched clip's sound is not available, or too short for this detector"


@dataclass(frozen=True)
class Judgement:
    """What all detectors say of one sound."""

    verdicts: Mapping[str, Verdict]  # by the names of the detectors
    reason: str = ""  # why they could not be asked

    @property
    def status(self) -> Status:
        """A copy if one detector says so; no copy only if each of them says so."""
        status = together(self.verdicts.values())
        return "not judged" if self.reason and status == "no copy" else status

    def why(self) -> str:
        """Why it was not judged, as a clause; empty if it was."""
        if self.status != "not judged":
            return ""
        unjudged = ((name, v.reason) for name, v in self.verdicts.items() if v.status != "no copy")
        return self.reason or "; ".join(f"{name}: {reason}" for name, reason in unjudged)


@dataclass(frozen=True, eq=False)
class Judge:
    """Verifies finished sound, on all its stretches, by several detectors, each by its own rule.

    The nearest stretch is always one of them. A detector that fails, or cannot compare a sound,
    does not judge it, and then the sound is not judged to be no copy.

    Args:
        verifier: the nearest stretch and its rule.
        training: the same index, with the sound of its clips for detectors that need it.
        detectors: further ones that search the whole training set, by their names.
        calibrations: of these, and of those that compare with the matched clip alone.
        changed: says how the index differs from the one that was opened; empty: it does not.
    """

    verifier: Verifier
    training: TrainingSet
    detectors: Mapping[str, Detector]
    calibrations: Mapping[str, Calibration]
    changed: Callable[[], str] = str

    @classmethod
    def of(
        cls,
        index: TrainingIndex | TrainingSet,
        embedder: Embedder,
        calibrations: Mapping[str, Calibration] | None = None,
        *,
        threshold: float | None = None,
        detectors: Sequence[Detector] = (),
    ) -> Judge:
        """A judge over an index in memory.

        Args:
            index: the training set.
            embedder: the one that built it.
            calibrations: of all detectors that judge, by their names.
            threshold: of the nearest stretch, in place of its calibration.
            detectors: those that search the training set, besides the nearest stretch.

        Raises:
            IndexMismatch: another embedder built the index.
            BadSetting: a detector without a calibration, or a calibration without its detector.
        """
        training = index if isinstance(index, TrainingSet) else TrainingSet(index)
        verifier = Verifier.of(training.index, embedder, calibrations, threshold)
        further = dict(calibrations or {})
        further.pop(NearestStretch(training.index, embedder).name, None)
        made = {detector.name: detector for detector in detectors}
        if bare := [name for name in made if name not in further]:
            raise BadSetting(
                f"detector '{bare[0]}' is not calibrated; calibrate it or leave it out"
            )
        if lost := [name for name in further if not (name in made or name.endswith(MATCHED))]:
            raise BadSetting(
                f"the calibration of '{lost[0]}' is here, but not the detector; give both or none"
            )
        return cls(verifier, training, made, further)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        embedder: str | None = None,
        threshold: float | None = None,
        detectors: Sequence[str] | None = None,
        index: TrainingIndex | None = None,
    ) -> Judge:
        """A judge over the index in a folder, by all detectors that are calibrated for it.

        Args:
            folder: of the index, or the name of a model that brings one.
            embedder: by default the one that the index names.
            threshold: of the nearest stretch, in place of its calibration.
            detectors: the full names of the calibrated detectors that judge beside the nearest
                stretch, as `anechoic calibrate` prints them; () for none.
            index: as `Verifier.load`.

        Raises:
            IndexMismatch: no index, another embedder's, or a calibration from before the last
                change of the index.
            UnknownEmbedder: the embedder is not to be had.
            BadSetting: a detector that is not calibrated, or that cannot be had here.
        """
        place, known = index_folder(str(folder)), find(str(folder))
        before = _files(place)
        verifier = Verifier.load(place, embedder, threshold, index)
        if known.index is not None:
            verifier.index.name = known.name  # not that of the folder it ships in
        stored = calibration.read(place, needed=threshold is None)
        if detectors is not None:
            nearest = NearestStretch(verifier.index, verifier.embedder).name
            if unknown := [name for name in detectors if name not in stored]:
                raise BadSetting(
                    f"expected detectors among {', '.join(stored) or 'none'}, which index "
                    f"'{verifier.index.name}' is calibrated for, got '{unknown[0]}'"
                )
            stored = {name: stored[name] for name in stored if name in {nearest, *detectors}}
        training = TrainingSet(verifier.index, known.sound)
        made = _detectors(stored, training, verifier.embedder)
        found = cls.of(training, verifier.embedder, stored, threshold=threshold, detectors=made)
        return replace(found, changed=partial(_changed, place, before))

    @property
    def index(self) -> TrainingIndex:
        """The training set."""
        return self.verifier.index

    @property
    def rules(self) -> dict[str, Rule | None]:
        """How each detector judges, by its name; None: it does not."""
        nearest = NearestStretch(self.index, self.verifier.embedder).name
        further = {name: self._rule(name) for name in self.calibrations}
        return {nearest: self.verifier.rule, **further}

    def unable(self) -> str:
        """Why it can judge nothing, as a clause; empty: it can."""
        if self.verifier.rule is None:
            return without_rule(self.index)
        return self.changed()

    def __call__(self, wav: Tensor, sample_rate: int) -> Judgement:
        """Judge one sound [c, t]."""
        return Judgement(dict(self._verdicts(wav, sample_rate)), self.changed())

    def _verdicts(self, wav: Tensor, sample_rate: int) -> Iterator[tuple[str, Verdict]]:
        name, rule = next(iter(self.rules.items()))
        nearest = _safely(partial(self.verifier, wav, sample_rate), rule)
        yield name, nearest
        for name in self.calibrations:
            weighed = partial(self._weigh, name, wav, sample_rate, nearest.match)
            yield name, _safely(weighed, self._rule(name))

    def _weigh(self, name: str, wav: Tensor, sample_rate: int, nearest: Match) -> Verdict:
        """The verdict of a further detector."""
        if (detector := self.detectors.get(name)) is not None:
            (match,) = detector(wav[None], sample_rate)
        elif nearest.row is None:
            match = NOTHING
        else:
            number = self.training.numbers[nearest.row]
            scorers = [scorer for scorer in SCORERS if name.startswith(scorer.starts)]
            found = score_clips(self.training, scorers, wav, sample_rate, [number], MATCHED)
            compared = [one.match for one in found if one.name == name]
            if not compared:
                return Verdict("not judged", NOTHING, None, None, self._rule(name), NO_SOUND)
            (match,) = compared
        return weigh(match, self.training.clips, self._rule(name), self.calibrations[name], "")

    def _rule(self, name: str) -> Rule | None:
        return find_rule(name, self.index, self.calibrations)


@dataclass(frozen=True, eq=False)
class JointJudge:
    """Verifies by several judges, each over an index of its own and by its own limits.

    A sound is a copy if one of them says so, and no copy only if each of them does.

    Args:
        judges: that of the model's index first.

    Raises:
        BadSetting, IndexMismatch: as `JoinedIndex`.
    """

    judges: tuple[Judge, ...]

    def __post_init__(self) -> None:
        self.index  # noqa: B018  refuses what cannot be joined

    @cached_property
    def index(self) -> JoinedIndex:
        """All training sets."""
        return JoinedIndex(tuple(judge.index for judge in self.judges))

    @property
    def verifier(self) -> Verifier:
        """The nearest stretch in the first index, and its rule."""
        return self.judges[0].verifier

    @property
    def rules(self) -> dict[str, Rule | None]:
        """How each detector judges over each index."""
        return {
            self._named(name, judge): rule
            for judge in self.judges
            for name, rule in judge.rules.items()
        }

    def unable(self) -> str:
        """Why one of them can judge nothing, as a clause; empty: all can."""
        return next(filter(None, (judge.unable() for judge in self.judges)), "")

    def __call__(self, wav: Tensor, sample_rate: int) -> Judgement:
        """Judge one sound [c, t]."""
        verdicts, reasons = {}, []
        for judge in self.judges:
            judged = judge(wav, sample_rate)
            reasons += [judged.reason] if judged.reason else []
            for name, verdict in judged.verdicts.items():
                verdicts[self._named(name, judge)] = verdict
        return Judgement(verdicts, "; ".join(reasons))

    def _named(self, name: str, judge: Judge) -> str:
        number = self.judges.index(judge) + 1
        return f"index {number} '{judge.index.name}': {name}"


def judge_over(
    index: str | Path | Judge | JointJudge | Sequence[str | Path | Judge],
    *,
    embedder: str | None = None,
) -> Judge | JointJudge:
    """A judge over the index of a folder, or over several.

    Raises:
        AnechoicError: as `Judge.load`, `JoinedIndex`.
    """
    if isinstance(index, (Judge, JointJudge)):
        return index
    if isinstance(index, (str, Path)):
        return Judge.load(index, embedder=embedder)
    judges = [
        one if isinstance(one, Judge) else Judge.load(one, embedder=embedder) for one in index
    ]
    return judges[0] if len(judges) == 1 else JointJudge(tuple(judges))


def _safely(judge: Callable[[], Verdict], rule: Rule | None) -> Verdict:
    """A verdict; "not judged" if the detector fails, whatever the error."""
    try:
        return judge()
    except Exception as error:
        return Verdict("not judged", NOTHING, None, None, rule, clause(error))


def clause(error: Exception) -> str:
    """An error as a reason, in one line."""
    known = isinstance(error, AnechoicError)
    text = " ".join(str(error).split())
    return text if known else f"{type(error).__name__}: {text}"


def _detectors(names: Collection[str], training: TrainingSet, embedder: Embedder) -> list[Detector]:
    """The installed detectors that have some names; those that need sound are made last, if any
    name is left."""
    nearest = NearestStretch(training.index, embedder).name
    left = {name for name in names if name != nearest and not name.endswith(MATCHED)}
    kinds = [(name, registry.detector(name)) for name in registry.names()] if left else []
    reasons, found = [], []
    for name, kind in sorted(kinds, key=lambda one: hasattr(one[1], "fit")):
        if not left or not judges_sound(kind):
            continue
        try:
            made = fitted(name, training, embedder)
        except AnechoicError as error:  # it does not fit this index, or sound is missing
            reasons.append(clause(error))
            continue
        if made.name in left:
            left.remove(made.name)
            found.append(made)
    if left:
        raise BadSetting(
            f"index '{training.index.name}' is calibrated for '{min(left)}', which cannot be made "
            f"here ({'; '.join(reasons) or 'no installed detector has this name'}); name the "
            "detectors that shall judge"
        )
    return found


def _files(folder: str) -> dict[str, tuple[int, int]]:
    """The size and the time of each file of a folder on this machine; elsewhere, none."""
    return {
        str(path.relative_to(folder)): (stat.st_size, stat.st_mtime_ns)
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and (stat := path.stat())
    }


def _changed(folder: str, before: Mapping[str, tuple[int, int]]) -> str:
    now = _files(folder)
    if now == before:
        return ""
    changed = sorted(name for name in {*now, *before} if now.get(name) != before.get(name))
    return (
        f"the index has changed since it was opened ('{changed[0]}' of '{folder}'); open it again"
    )
