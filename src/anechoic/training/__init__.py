"""Watching a fine-tuning for copies of its training clips while it runs.

    monitor = Monitor.of(pipe, "clips.index", "monitor", ordinary=["rain on a roof", "a dog barks"])
    for step, batch in enumerate(batches, 1):
        ...
        if monitor(step):
            break

Names load on first use, so that importing the package stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anechoic.lazy import on_first_use

if TYPE_CHECKING:  # the same names as below, so that a type checker sees them
    from anechoic.training.averages import averaged
    from anechoic.training.callback import lightning_callback
    from anechoic.training.cleaned import CleanedSet
    from anechoic.training.monitor import Monitor
    from anechoic.training.observation import Observation, PanelSound
    from anechoic.training.panel import Panel
    from anechoic.training.repeats import Repeats
    from anechoic.training.sketches import FromPipeline, FromStableAudioTools, Sketches

__all__ = [
    "CleanedSet", "FromPipeline", "FromStableAudioTools", "Monitor", "Observation", "Panel",
    "PanelSound", "Repeats", "Sketches", "averaged", "lightning_callback",
]  # fmt: skip

if not TYPE_CHECKING:  # a type checker would take any name for one that exists
    __getattr__, __dir__ = on_first_use(
        __name__,
        {
            "anechoic.training.averages": ("averaged",),
            "anechoic.training.callback": ("lightning_callback",),
            "anechoic.training.cleaned": ("CleanedSet",),
            "anechoic.training.monitor": ("Monitor",),
            "anechoic.training.observation": ("Observation", "PanelSound"),
            "anechoic.training.panel": ("Panel",),
            "anechoic.training.repeats": ("Repeats",),
            "anechoic.training.sketches": ("FromPipeline", "FromStableAudioTools", "Sketches"),
        },
    )
