"""Fitted detectors beside an index, so that a training set is fitted once and not by every command.

INDEX/detectors/NAME/
  fitted.safetensors   the detector, as its `save` writes it
  about.json           the training set that it was fitted to, and the clips that it leaves out
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from anechoic.detectors.protocol import Detector
from anechoic.detectors.sound import FittedToSome, underlying
from anechoic.errors import IndexMismatch
from anechoic.parsing import parse_object
from anechoic.storage import Storage, whole_folder

FOLDER, FITTED, ABOUT = "detectors", "fitted.safetensors", "about.json"


@runtime_checkable
class Saved(Protocol):
    """A fitted detector that can be written; its class reads it again by `load`."""

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path: ...


def write(folder: str | Path, name: str, detector: Detector, content: str) -> Path | None:
    """Keep a fitted detector in the folder of its index.

    Args:
        folder: of the index.
        name: of the detector in `registry`.
        detector: fitted to all clips of the index, or to those that are long and loud enough.
        content: what the index holds (`TrainingIndex.content`).

    Returns:
        Its folder; None: this kind of detector is not fitted, or the index is not on this machine.
    """
    own, local = underlying(detector), Storage(folder).local
    if not isinstance(own, Saved) or local is None:
        return None
    left_out = list(detector.left_out) if isinstance(detector, FittedToSome) else []
    clips = len(left_out) + len(detector.rows) if isinstance(detector, FittedToSome) else None
    place = local / FOLDER / name
    with whole_folder(place) as part:
        own.save(part / FITTED)
        about: dict[str, Any] = {"content": content, "clips": clips, "left_out": left_out}
        (part / ABOUT).write_text(json.dumps(about | {"sha256": _digest(about)}) + "\n")
    return place


def read(folder: str | Path, name: str, kind: type[Any], content: str) -> Detector | None:
    """The fitted detector that `write` kept.

    Args:
        folder: of the index.
        name: of the detector in `registry`.
        kind: its class.
        content: what the index holds now.

    Returns:
        The detector; None: none was kept, or the index held something else then, so it has to be
        fitted again.

    Raises:
        IndexMismatch: what was kept is damaged, or of another recipe than this version's.
    """
    local = Storage(folder).local
    if local is None or not (place := local / FOLDER / name).joinpath(ABOUT).is_file():
        return None
    mend = (
        f"mend it with 'anechoic calibrate FOLDER --index {folder} --detector {name} --overwrite'"
    )
    what = f"'{place / ABOUT}'"
    about = parse_object((place / ABOUT).read_bytes(), what, IndexMismatch, mend)
    if about.pop("sha256", None) != _digest(about):
        raise IndexMismatch(f"{what} is damaged: its hash is not that of what was written; {mend}")
    if about["content"] != content:
        return None
    try:
        detector: Detector = kind.load(place / FITTED)
    except IndexMismatch as error:
        raise IndexMismatch(
            f"the detector that '{place}' keeps cannot be used ({error}); {mend}"
        ) from error
    if not about["left_out"]:
        return detector
    left_out = set(about["left_out"])
    rows = [row for row in range(about["clips"]) if row not in left_out]
    return FittedToSome(detector, rows, about["left_out"])


def _digest(about: dict[str, Any]) -> str:
    return sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
