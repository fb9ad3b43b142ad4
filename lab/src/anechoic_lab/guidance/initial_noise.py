"""Initial noise that the prompt pulls less: adjusted before the first step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from anechoic.errors import BadSetting
from anechoic.guidance.base import Guidance
from anechoic.guidance.cfg import alone, check_scale
from anechoic.guidance.step import Guided, Needs, Record, Step, StepInfo
from anechoic.guidance.triggers import LogSNR, Progress, Timestep, as_trigger


@dataclass(frozen=True)
class InitialNoise(Guidance):
    """Moves the starting latents to where the prompt pulls them less, then guides plainly.

    With D(x) = eps_c - eps_u at the first evaluation, and x of d numbers, `iterations` times:

        x = x - step * (D(x + radius * sqrt(d) * D/||D||) - D(x))

    a step down ||D|| that needs no gradient through the network. Each sample stops by itself once
    ||D|| is at most `limit`. The generation then starts from x; until `start`, it is unconditional.

    The published limits are norms of Stable Diffusion 1.4. `ordinary_limit` gives one for a model:
    a quantile of ||D|| over ordinary prompts. On Stable Audio's schedule the first evaluation has
    sigma/alpha = 500 and D is 1/500 of c - u, so it takes a larger `step` to move anything.

    Args:
        scale: classifier-free guidance scale.
        radius: how far away D is taken once more, as a share of the norm of pure noise; the paper's
            rho, which is 50 for Stable Diffusion's 4 x 64 x 64 latents.
        step: the paper's gamma.
        iterations: at most.
        limit: of ||D||, under which a sample is left alone; None: all are moved at each iteration.
        start: where guidance starts: `LogSNR`, `Timestep`, `Progress`; a plain number is a share of
            the schedule. The released code leaves out 5 of 50 steps.

    Raises:
        BadSetting: a setting out of range.
        GuardError: an engine that cannot move the latents.

    Source: Han et al., 2025 (arXiv:2510.08625), the form for a batch, as in the released code; the
    limit by a quantile is our own.
    """

    scale: float = 7.0
    radius: float = 50 / 128
    step: float = 0.7
    iterations: int = 2
    limit: float | None = None
    start: LogSNR | Progress | Timestep | float = 0.1

    def __post_init__(self) -> None:
        check_scale(self.scale)
        for name in ("radius", "step"):
            if not 0 < getattr(self, name) < math.inf:
                raise BadSetting(f"expected {name} above 0, got {getattr(self, name)}")
        if self.iterations < 1:
            raise BadSetting(f"expected iterations of 1 or more, got {self.iterations}")
        if self.limit is not None and not 0 <= self.limit < math.inf:
            raise BadSetting(f"expected a limit of 0 or more, or none, got {self.limit}")
        object.__setattr__(self, "start", as_trigger(self.start))

    def needs(self, info: StepInfo) -> Needs:
        return "both" if info.progress == 0 else alone(self._weight(info))

    def looks_back(self) -> bool:
        return False

    def idle(self, records: Sequence[Record]) -> str | None:
        if any(record.progress == 0 for record in records):
            return None
        return "it was not on at the first evaluation, where it moves the latents"

    def __call__(self, step: Step) -> Guided:
        weight = self._weight(step)
        if step.progress > 0:
            return Guided(weight)
        moved, rounds = self._moved(step)
        notes = {"rounds": rounds}
        if not rounds.any():
            return Guided(weight, notes=notes)
        plain = Guided(weight)
        return Guided(weight, plain.x0(moved) - plain.x0(step), notes, moved.x)

    def _weight(self, info: StepInfo) -> float:
        return self.scale if as_trigger(self.start).reached(info) else 0.0

    def _moved(self, step: Step) -> tuple[Step, Tensor]:
        """The step from the latents that it found, and how often each sample was moved, [b]."""
        x, cond, uncond = step.x.clone(), step.cond.clone(), step.uncond.clone()
        far = self.radius * math.sqrt(x[0].numel())
        rounds = torch.zeros(step.batch, dtype=torch.long)
        for _ in range(self.iterations):
            pull = (uncond - cond) / step.noise.ratio  # eps_c - eps_u
            norm = pull.flatten(1).norm(dim=1)
            rows = (norm > (self.limit or 0.0)).nonzero()[:, 0]
            if not len(rows):
                break
            here = pull[rows]
            away = x[rows] + here * step.per_sample(far / norm[rows])
            one, other = (step.denoise(away, half, rows) for half in ("cond", "uncond"))
            x[rows] -= self.step * ((other - one) / step.noise.ratio - here)
            cond[rows] = step.denoise(x[rows], "cond", rows)
            uncond[rows] = step.denoise(x[rows], "uncond", rows)
            rounds[rows.cpu()] += 1
        return replace(step, x=x, cond=cond, uncond=uncond), rounds


def ordinary_limit(
    pipe: Any,
    prompts: Sequence[str],
    arguments: Mapping[str, Any],
    quantile: float = 0.5,
    seed: int = 0,
) -> float:
    """A quantile of ||eps_c - eps_u|| at the first evaluation, over prompts that are ordinary.

    Args:
        pipe: a pipeline that `guard` knows; each prompt costs one evaluation of its network.
        prompts: ordinary ones.
        arguments: the pipeline's own: see `anechoic.diffusers.pipelines.call_arguments`.
        quantile: which one, in [0, 1].
        seed: of the noise.

    Raises:
        BadSetting: no prompts, or a quantile out of range.
    """
    from anechoic.diffusers.generate import generate

    if not prompts:
        raise BadSetting("expected ordinary prompts to measure a limit on, got none; give some")
    if not 0 <= quantile <= 1:
        raise BadSetting(f"expected a quantile between 0 and 1, got {quantile}")
    norms = []
    for prompt in prompts:
        try:
            generate(pipe, prompt, seed, arguments, _FirstDistance())
        except _Measured as found:
            norms.append(found.distance)
    return float(torch.cat(norms).double().quantile(quantile))


class _Measured(Exception):
    """The first evaluation was measured, and nothing else is wanted."""

    def __init__(self, distance: Tensor):
        self.distance = distance


class _FirstDistance(Guidance):
    def __call__(self, step: Step) -> Guided:
        raise _Measured(step.distance.cpu())
