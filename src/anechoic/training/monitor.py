"""Generates a fixed panel every so many steps of a training, and stops it when it copies."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from anechoic import audio
from anechoic.embedders.text import Adherence, cosine_to_text
from anechoic.errors import BadSetting
from anechoic.storage import write_whole
from anechoic.training import trackers
from anechoic.training.observation import LOG, Observation, PanelSound, read_log
from anechoic.training.panel import Panel
from anechoic.training.sketches import FromPipeline, FromStableAudioTools, Generate
from anechoic.training.trackers import Tracker
from anechoic.verdict import Verdict, Verifier, without_rule

Weights = Callable[[], AbstractContextManager[object]]
FORMAT = 1


class Monitor:
    """Watches a training for copies of its training clips.

    Call it after each step of the optimizer. It does nothing but at every `every`th step: there it
    generates the panel without a guard, has each sound judged as `anechoic check` judges it, and
    writes the result. It answers True once the training should stop: the lower end of the 95 %
    interval of the copy rate from training captions has reached `limit`.

    All is written to `folder`, and read from there again: a training that goes on from a
    checkpoint goes on with its monitor. The random numbers, weights, modes and settings of the
    trainer are left as they were. Of several processes (torch.distributed) the first one generates
    and the others wait, so each of them needs all weights: FSDP is not supported.

    Args:
        generate: generates the panel: `FromPipeline`, `FromStableAudioTools`, or a function of
            prompts and seeds that returns `Sketches`.
        verifier: of the index of the training clips; it needs a calibration or a threshold.
        panel: what is generated.
        folder: of the log, and of the sounds that come nearest to training clips.
        every: steps from one look at the training to the next.
        share: of the time, at most: a look waits for a later `every`th step until there is room
            for the costliest one so far. What the first one costs is not known before. None: no
            limit.
        limit: copy rate whose lower end stops the training; 1: never.
        act: "stop", or "warn" to write it and train on.
        weights: a block in which the weights to generate with are in place; see `averaged`.
        scorer: how well a sound fits its prompt; by default the cosine of an index's embedder that
            embeds text, too. With a scorer all sounds are decoded.
        track: where observations go, besides the log; by default see `trackers.usual`.
        keep: sounds that are written of each observation, nearest first.

    Raises:
        BadSetting: a setting that makes no sense, an index without a rule, or a folder with the log
            of a monitor with other settings.
    """

    def __init__(
        self,
        generate: Generate,
        verifier: Verifier,
        panel: Panel,
        folder: str | Path,
        *,
        every: int = 500,
        share: float | None = 0.03,
        limit: float = 0.1,
        act: Literal["stop", "warn"] = "stop",
        weights: Weights = contextlib.nullcontext,
        scorer: Adherence | None = None,
        track: Sequence[Tracker] | None = None,
        keep: int = 3,
    ) -> None:
        if every < 1 or not 0 < limit <= 1 or (share is not None and not 0 < share <= 1):
            raise BadSetting(
                "expected every >= 1, and a limit and a share above 0 and up to 1, got "
                f"every={every}, limit={limit:g}, share={share}"
            )
        if act not in ("stop", "warn"):
            raise BadSetting(f"expected act to be 'stop' or 'warn', got {act!r}")
        if verifier.rule is None:
            raise BadSetting(
                f"{without_rule(verifier.index)}, so no sound can be called a copy; calibrate it "
                "with 'anechoic calibrate', or give a threshold"
            )
        self.generate, self.verifier, self.panel = generate, verifier, panel
        self.folder, self.every, self.share, self.limit = Path(folder), every, share, limit
        self.act, self.weights, self.keep = act, weights, keep
        self.scorer = scorer or cosine_to_text(verifier.embedder)
        self.observations: list[Observation] = []
        self._settings = {
            "format": FORMAT,
            "panel": panel.to_dict(),
            "index": verifier.index.content,
            "rule": verifier.rule.to_dict(),
        }
        if self._first:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._read()
        self.track = list(trackers.usual(self.folder) if track is None else track)
        last = self.observations[-1] if self.observations else None
        self._spent, before = (last.spent_s, last.trained_s) if last else (0.0, 0.0)
        self._began = time.monotonic() - before

    @classmethod
    def of(
        cls,
        model: Any,
        index: str | Path,
        folder: str | Path,
        *,
        ordinary: Sequence[str] = (),
        count: int = 24,
        seeds: Sequence[int] = (0,),
        threshold: float | None = None,
        scorer: Adherence | None = None,
        sketch: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Monitor:
        """A monitor of a pipeline of diffusers or a model of stable-audio-tools.

        Args:
            model: with the modules that are trained in it, not in wrappers.
            index: the folder of the index of the training clips.
            folder: as above.
            ordinary: prompts that nothing was trained on.
            count: of captions that are drawn from the index.
            seeds: of each prompt.
            threshold: a cosine, in place of the index's calibration.
            scorer: as above.
            sketch: settings of `FromPipeline` or `FromStableAudioTools`.
            settings: of the monitor, as above.

        Raises:
            AnechoicError: as above, or as `Verifier.load`, `Panel.of` and `adapter_for` have it.
        """
        verifier = Verifier.load(index, threshold=threshold)
        scorer = scorer or cosine_to_text(verifier.embedder)
        native = type(model).__name__ == "ConditionedDiffusionModelWrapper"
        generate: Generate
        if native:
            generate = FromStableAudioTools(model, **(sketch or {}))
        else:
            latents = None if scorer else verifier.index.latents
            generate = FromPipeline(model, **{"latents": latents, **(sketch or {})})
        panel = Panel.of(verifier.index, ordinary, count, seeds)
        return cls(generate, verifier, panel, folder, scorer=scorer, **settings)

    def __call__(self, step: int) -> bool:
        """Look at the training after this step if it is time; returns whether to stop it."""
        if step % self.every:
            return self.stopped if self._alone else False  # processes agree at `every`th steps
        if self._first and self._affordable:
            self.look(step)
        return self._agreed(self.stopped)

    def look(self, step: int) -> Observation:
        """Generate and judge the panel now, whatever it costs."""
        start = time.monotonic()
        with _own_random_numbers(), self.weights():
            calls = self.panel.calls()
            made = self.generate([call[0] for call in calls], [call[2] for call in calls])
        assert made.distances is not None
        sounds = [
            self._judged(call, wav, made.sample_rate, distance)
            for call, wav, distance in zip(calls, made.sounds, made.distances, strict=True)
        ]
        ranked = sorted(
            (i for i, sound in enumerate(sounds) if sound.score is not None),
            key=lambda i: -(sounds[i].score or 0.0),
        )
        worst = []
        for rank, i in enumerate(ranked[: self.keep], 1):
            wav, name = made.sounds[i], f"step-{step:07d}-{rank}.wav"
            assert wav is not None
            peak = max(1.0, float(wav.abs().max()))
            audio.write(self.folder / name, wav / peak, made.sample_rate, overwrite=True)
            worst.append(name)
        self._spent += time.monotonic() - start
        elapsed = max(time.monotonic() - self._began, self._spent)
        found = Observation(step, tuple(sounds), elapsed, self._spent, tuple(worst))
        # a training that went back to a checkpoint is looked at again from there
        self.observations = [one for one in self.observations if one.step < step] + [found]
        self._write()
        for track in self.track:
            track(found, self.folder)
        if self.over:
            at = f"the copy rate has reached the limit of {self.limit:.0%} at step {step}"
            print(f"anechoic: {at}" + (": stopping" if self.act == "stop" else ""), flush=True)
        return found

    @property
    def over(self) -> bool:
        """Whether the lower end of the last copy rate has reached the limit."""
        found = self.observations[-1].copies() if self.observations else None
        return found is not None and found.value > 0 and found.low >= self.limit

    @property
    def stopped(self) -> bool:
        """Whether the training should stop."""
        return self.act == "stop" and self.limit < 1 and self.over

    # ------------------------------------------------------------------------------ judging

    def _judged(
        self, call: tuple[str, bool, int], wav: Tensor | None, rate: int, distance: float | None
    ) -> PanelSound:
        prompt, trained, seed = call
        if wav is None:  # far from every training clip
            return PanelSound(
                prompt, trained, seed, "no copy", None, None, distance, None, far=True
            )
        if not torch.isfinite(wav).all():  # a training that has diverged
            return PanelSound(prompt, trained, seed, "not judged", None, None, distance, None)
        verdict: Verdict = self.verifier(wav, rate)
        return PanelSound(
            prompt,
            trained,
            seed,
            verdict.status,
            verdict.score if math.isfinite(verdict.score) else None,
            None if verdict.clip is None else verdict.clip.id,
            distance,
            None if self.scorer is None else self.scorer(wav, rate, prompt),
        )

    # ------------------------------------------------------------------------------- the log

    def _read(self) -> None:
        log = self.folder / LOG
        if not log.exists():
            return
        settings, self.observations = read_log(self.folder)
        if settings != self._settings:
            raise BadSetting(
                f"the log '{log}' is of another panel, index or rule than this monitor's; give "
                "another folder, or the settings that it was begun with"
            )

    def _write(self) -> None:
        rows = [self._settings, *(one.to_dict() for one in self.observations)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_whole(self.folder / LOG, text.encode())

    # ------------------------------------------------------------------- time, and processes

    @property
    def _affordable(self) -> bool:
        if self.share is None or not self.observations:
            return True
        spent = [0.0, *(one.spent_s for one in self.observations)]
        dearest = max(after - before for before, after in itertools.pairwise(spent))
        return self._spent + dearest <= self.share * (time.monotonic() - self._began)

    @property
    def _alone(self) -> bool:
        there = torch.distributed.is_available() and torch.distributed.is_initialized()
        return not there or torch.distributed.get_world_size() == 1

    @property
    def _first(self) -> bool:
        return self._alone or torch.distributed.get_rank() == 0

    def _agreed(self, stop: bool) -> bool:
        """What the first process decided; the others wait for it here."""
        if self._alone:
            return stop
        said = [stop]
        torch.distributed.broadcast_object_list(said)
        return said[0]


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """Whatever is drawn inside, the trainer's random numbers go on as if it had not been."""
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
