"""A clip of a training set, and its sound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Clip:
    """The clip, or the window of a clip, behind one row of an index."""

    id: str
    caption: str
    path: str | None = None  # relative to the index's `clips_folder`
    start_s: float = 0.0  # start of the window in the clip
    seconds: float = 0.0  # length of the window
    info: Mapping[str, str] = field(default_factory=dict)  # licence, source, ...


@dataclass(frozen=True)
class Sound:
    """A training clip with its sound, to be embedded."""

    id: str
    caption: str
    wav: Tensor  # [c, t]
    sample_rate: int
    path: str | None = None
    info: Mapping[str, str] = field(default_factory=dict)
