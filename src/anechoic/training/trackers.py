"""Where a monitor's observations go: the console, TensorBoard, Weights & Biases."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anechoic import audio
from anechoic.training.observation import Observation

Tracker = Callable[[Observation, Path], None]  # of an observation, and of its sounds' folder


def console(found: Observation, folder: Path) -> None:
    """Print the observation in a line."""
    print(f"anechoic: {found.sentence()}", flush=True)


def tensorboard(writer: Any) -> Tracker:
    """Write to a `SummaryWriter`: curves, the histogram of similarities, players of the worst."""

    def track(found: Observation, folder: Path) -> None:
        for name, value in found.scalars().items():
            writer.add_scalar(f"anechoic/{name}", value, found.step)
        if scores := found.scores():
            import torch

            writer.add_histogram("anechoic/similarity", torch.tensor(scores), found.step)
        for number, name in enumerate(found.worst, 1):
            wav, rate = audio.read(folder / name)
            writer.add_audio(f"anechoic/worst {number}", wav[:1], found.step, rate)
        writer.flush()

    return track


def wandb(run: Any) -> Tracker:
    """Log to a run of Weights & Biases: curves, the histogram of similarities, players."""

    def track(found: Observation, folder: Path) -> None:
        import wandb as library

        content: dict[str, Any] = {f"anechoic/{k}": v for k, v in found.scalars().items()}
        if scores := found.scores():
            content["anechoic/similarity"] = library.Histogram(scores)
        for number, name in enumerate(found.worst, 1):
            content[f"anechoic/worst {number}"] = library.Audio(str(folder / name))
        # with the step as a figure, since the trainer's own count of logs may be ahead
        run.log({**content, "anechoic/step": found.step})

    return track


def usual(folder: Path) -> list[Tracker]:
    """The console; TensorBoard, in `folder`, where it is installed; and the run of Weights & Biases
    that the trainer began."""
    found: list[Tracker] = [console]
    if importlib.util.find_spec("tensorboard") is not None:
        from torch.utils.tensorboard import SummaryWriter

        found.append(tensorboard(SummaryWriter(str(folder / "tensorboard"))))
    run = getattr(sys.modules.get("wandb"), "run", None)
    return found if run is None else [*found, wandb(run)]
