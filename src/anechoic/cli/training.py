"""What `audit`, `calibrate` and `check` share: the training set of an index, its detectors and what
they are calibrated on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from anechoic.cli.output import progress_bar
from anechoic.errors import BadSetting
from anechoic.lazy import uncollected
from anechoic.models import find, index_folder

if TYPE_CHECKING:
    from anechoic.audit import AuditProgress, TrainingSet
    from anechoic.audit.judge import DetectorVerifier
    from anechoic.detectors import Calibration
    from anechoic.index import TrainingIndex
    from anechoic.types import Embedder
    from anechoic.verdict import Verifier


def open_index(name: str, embedder_name: str | None = None) -> tuple[TrainingIndex, Embedder]:
    """An index and its embedder.

    Args:
        name: a folder, or a model that an installed package registers with its index.
        embedder_name: the embedder to use, by default the one that the index names.

    Raises:
        IndexMismatch: no index, or one that another embedder built.
        UnknownEmbedder: the embedder is not to be had.
    """
    with uncollected():
        from anechoic.embedders import embedder
        from anechoic.index import TrainingIndex

    index = TrainingIndex.load(index_folder(name))
    made = embedder(embedder_name or index.embedder_name, trusted=embedder_name is not None)
    index.check_embedder(made)
    return index, made


def open_training(name: str, embedder_name: str | None) -> tuple[TrainingSet, Embedder]:
    """The training set of an index, and the embedder that built it.

    An index that comes with a model has the model's name, and may bring the sound of its clips.
    """
    from anechoic.audit import TrainingSet

    index, embed = open_index(name, embedder_name)
    known = find(name)
    if known.index is not None:
        index.name = known.name  # not that of the folder it ships in
    return TrainingSet(index, known.sound), embed


# ----------------------------------------------------------------------------- what it is judged by


def open_verifier(
    name: str, embedder_name: str | None = None, threshold: float | None = None
) -> Verifier:
    """What judges by an index; one that comes with a model has the model's name."""
    with uncollected():
        from anechoic.verdict import Verifier

    verifier = Verifier.load(index_folder(name), embedder_name, threshold)
    known = find(name)
    if known.index is not None:
        verifier.index.name = known.name  # not that of the folder it ships in
    return verifier


def open_judges(
    name: str, embedder_name: str | None, threshold: float | None, detectors: Sequence[str]
) -> list[Verifier | DetectorVerifier]:
    """What judges by an index: the nearest stretch, or each of some detectors by its calibration.

    The detectors share the false-positive rate that they are calibrated at, so that all of them
    together call no more of the held-out sound a copy than one would.

    Raises:
        BadSetting: no such detector, a threshold for several, or too few held-out sounds.
    """
    if not detectors:
        return [open_verifier(name, embedder_name, threshold)]
    if threshold is not None:
        raise BadSetting(
            "'--threshold' is a similarity by the embedder, and '--detector' names what has other "
            "scores; leave one of them out, and calibrate the index with the same '--detector'"
        )
    from anechoic.audit.judge import DetectorVerifier
    from anechoic.audit.training import fitted
    from anechoic.detectors import calibration
    from anechoic.verdict import find_rule

    training, embed = open_training(name, embedder_name)
    known = calibration.read(index_folder(name))
    judges: list[Verifier | DetectorVerifier] = []
    for made in (fitted(one, training, embed) for one in dict.fromkeys(detectors)):
        rule, own = None, known.get(made.name)
        if own is not None:
            own = own.among(len(set(detectors)))
            rule = find_rule(made.name, training.index, {made.name: own})
        judges.append(DetectorVerifier(training, made, rule, own))
    return judges


def at_rate(known: Mapping[str, Calibration], decides: str, rate: float) -> dict[str, Calibration]:
    """Stored calibrations at another false-positive rate.

    Raises:
        BadSetting: the deciding detector is not among them, or they are too few for the rate.
    """
    if decides not in known:
        raise BadSetting(
            f"'{decides}' is not calibrated, so a false-positive rate of {rate:g} sets no "
            "threshold; calibrate the index with 'anechoic calibrate', or give '--held-out FOLDER'"
        )
    return {name: replace(one, false_positive_rate=rate) for name, one in known.items()}


# ------------------------------------------------------------------------------------ the progress


@contextmanager
def progress_of_audit(what: str) -> Iterator[Callable[[AuditProgress], None]]:
    """A bar on stderr, with the time left as the audit itself tells it; none before it begins."""
    bar = progress_bar("left")
    task = bar.add_task(what, total=None, left="")

    def show(progress: AuditProgress) -> None:
        left = "" if progress.left_s is None else f"{_time(progress.left_s)} left"
        bar.update(task, completed=progress.done, total=progress.total, left=left)
        bar.start()

    try:
        yield show
    finally:
        bar.stop()


def _time(seconds: float) -> str:
    """A time to wait, no finer than it can be known.

    >>> _time(42), _time(400), _time(9000)
    ('42 s', '7 min', '2 h 30 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
