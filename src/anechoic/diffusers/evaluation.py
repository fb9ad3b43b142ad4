"""One evaluation of the network, and what a guidance sees of it.

Nothing is computed that is not looked at: most methods choose a scale and see no estimate, and
beside a small network each operation on latents costs a thousandth of an evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from anechoic.diffusers.cfg_batch import DenoiserInputs
from anechoic.guidance.noise import NoiseLevel, Prediction
from anechoic.guidance.step import Condition, Step


@dataclass
class Evaluation:
    """Where in the schedule, and the arguments of its halves."""

    batch: int
    noise: NoiseLevel
    progress: float
    latents: Callable[[], Tensor]  # what one half of the network is fed, [b, *latent]
    take_apart: Callable[[], tuple[DenoiserInputs, DenoiserInputs | None]]

    @cached_property
    def x(self) -> Tensor:
        return self.latents().float()

    @cached_property
    def halves(self) -> tuple[DenoiserInputs, DenoiserInputs | None]:
        """The arguments with the prompt and without."""
        return self.take_apart()

    @property
    def cond(self) -> DenoiserInputs:
        return self.halves[0]

    @property
    def uncond(self) -> DenoiserInputs | None:
        return self.halves[1]

    def step(self, predictions: Mapping[Condition, Tensor], kind: Prediction, **rest: Any) -> Step:
        """It as a guidance sees it.

        Args:
            predictions: the network's, of the halves that were computed.
            kind: what the network predicts.
            rest: the fields of a step that do not follow from these.
        """
        step = _Seen.__new__(_Seen)
        vars(step).update(
            rest,
            batch=self.batch,
            noise=self.noise,
            progress=self.progress,
            distance=self._distance(list(predictions.values()), kind),
            _now=self,
            _predictions=predictions,
            _kind=kind,
        )
        return step

    def _distance(self, predictions: Sequence[Tensor], kind: Prediction) -> Tensor:
        """d_t, [b], of the predictions themselves; NaN where there is one alone."""
        if len(predictions) == 1:
            return torch.full((self.batch,), torch.nan, device=predictions[0].device)
        one, other = predictions
        difference = one.float() - other.float()
        of_each = tuple(range(1, difference.dim()))
        return torch.linalg.vector_norm(difference, dim=of_each) * self.noise.eps_gain(kind)


class _Seen(Step):
    """A step whose latents and estimates are computed when they are first looked at."""

    _now: Evaluation
    _predictions: Mapping[Condition, Tensor]
    _kind: Prediction

    @cached_property
    def x(self) -> Tensor:
        return self._now.x

    @cached_property
    def cond(self) -> Tensor:
        return self._estimate("cond")

    @cached_property
    def uncond(self) -> Tensor:
        return self._estimate("uncond")

    def _estimate(self, half: Condition) -> Tensor:
        if half not in self._predictions:  # what is made of NaN cannot pass for guidance
            return torch.full_like(self.x, torch.nan)
        return self.noise.to_x0(self.x, self._predictions[half].float(), self._kind)
