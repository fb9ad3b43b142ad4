"""What an index knows of each clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Clip:
    """What one row of an index stands for: a clip, or a window of one."""

    id: str
    caption: str
    path: str | None = None  # relative to the index's `clips_folder`
    start_s: float = 0.0  # of the window, in the clip
    seconds: float = 0.0  # of the window
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
