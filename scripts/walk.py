#!/usr/bin/env python3
"""Print the files that a sample passes: one guarded evaluation, and a sound through `check`.

A file is passed where one of its functions is given the sample or returns it: latents, a
prediction, an estimate, sound, an embedding, a score; as a tensor, an array, or inside a `Step`.
Functions that see settings and plain numbers alone do not count, nor does the encoded
text of a caption, which is not the sample. A file is entered again where the
sample has left it and comes to it by another call; a call back into a file that it is still in, as
a guidance that asks for the decoder makes, is none.

    python scripts/walk.py                     # the demo model under AMG with its gate open
    python scripts/walk.py --shut              # ... with its gate shut, as it mostly is
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import numpy as np
import torch

import anechoic
from anechoic import AntiMemorization, TrainingIndex, audio, embedder, guard
from anechoic.cli import main
from anechoic.models import find

PROJECT = Path(anechoic.__file__).parent
CAPTIONS = "Connection.encode"  # what it calls sees captions and their encoding alone
SCHEDULE = {"timestep", "sigmas"}  # tensors that do not hold the sample
CARRIERS = {"Step", "LazyStep", "Neighbours", "Match", "Verdict"}  # classes that hold a sample


def carries(value: Any) -> bool:
    """Whether a value is the sample, or holds it."""
    if isinstance(value, torch.Tensor):
        return value.is_floating_point() and value.numel() > 1
    if isinstance(value, np.ndarray):
        return value.dtype.kind == "f"
    if isinstance(value, Mapping):
        return any(carries(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(carries(item) for item in value)
    return type(value).__name__ in CARRIERS


@dataclass
class Walk:
    """The files that a sample passes, in order, and how often it enters each."""

    entered: Counter[str] = field(default_factory=Counter)
    stack: list[str] = field(default_factory=list)
    frames: list[tuple[str, str | None]] = field(default_factory=list)  # its file; carried before
    encoding: bool = False  # captions are being encoded

    def event(self, frame: FrameType, event: str, value: Any) -> None:
        """For `sys.setprofile`."""
        path = Path(frame.f_code.co_filename)
        if event not in ("call", "return") or not path.is_relative_to(PROJECT):
            return
        if frame.f_code.co_qualname == CAPTIONS:
            self.encoding = event == "call"
        if self.encoding or frame.f_code.co_qualname == CAPTIONS:
            return
        name = str(path.relative_to(PROJECT))
        if event == "call":
            given = frame.f_locals.items()
            carried = any(carries(item) for key, item in given if key not in SCHEDULE)
            if carried:
                self._enter(name)
            self.frames.append((name, name if carried else None))
        elif self.frames:
            _, carried_by = self.frames.pop()
            if carried_by:
                self.stack.pop()
            elif carries(value):
                self._enter(name)
                self.stack.pop()

    def _enter(self, name: str) -> None:
        if name not in self.stack:
            self.entered[name] += 1
        self.stack.append(name)

    @contextmanager
    def watched(self) -> Iterator[None]:
        sys.setprofile(self.event)
        try:
            yield
        finally:
            sys.setprofile(None)

    def show(self, title: str) -> None:
        again = {name: count - 1 for name, count in self.entered.items() if count > 1}
        print(f"{title}: {len(self.entered)} files, {len(again)} of them entered again")
        for name, count in self.entered.items():
            print(f"  {name}" + (f"  ({count} times)" if count > 1 else ""))


def evaluation(shut: bool) -> Walk:
    """The fifth evaluation of six, from the network's output back to the pipeline."""
    from anechoic.diffusers.loading import load_pipeline

    pipe, folder = load_pipeline("demo"), find("demo").index
    pipe.set_progress_bar_config(disable=True)
    index = TrainingIndex.load(str(folder))
    limit = 1.0 if shut else -1.0
    method = AntiMemorization(
        index, embedder(index.embedder_name), lambda_min=limit, lambda_max=limit
    )
    walk, calls = Walk(), [0]

    def start(*_: Any) -> None:
        calls[0] += 1
        if calls[0] == 5:
            sys.setprofile(walk.event)

    def stop(*_: Any) -> None:
        sys.setprofile(None)

    before = pipe.transformer.register_forward_pre_hook(start)
    with guard(pipe, method):
        after = pipe.transformer.register_forward_hook(stop)  # after the guard's own
        pipe(["low cello note", "high flute note"], num_inference_steps=6)
    before.remove()
    after.remove()
    return walk


def check() -> Walk:
    """A sound file through `anechoic check`."""
    walk = Walk()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "sound.wav"
        noise = torch.rand(1, 16000, generator=torch.Generator().manual_seed(0)) - 0.5
        audio.write(file, noise, 16000)
        with redirect_stdout(StringIO()), walk.watched(), suppress(SystemExit):
            main(["check", str(file), "--index", "demo"])
    return walk


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    evaluation("--shut" in sys.argv).show("one guarded evaluation")
    check().show("a sound through check")
