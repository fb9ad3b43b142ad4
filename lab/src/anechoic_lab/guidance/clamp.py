"""Steps held to the size that they have under ordinary prompts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anechoic.errors import BadSetting, GuardError
from anechoic.guidance.base import Guidance
from anechoic.guidance.cfg import check_scale
from anechoic.guidance.step import Guided, Step

SAME_LEVEL = 1e-2  # in log-SNR


@dataclass(frozen=True)
class StepStatistics:
    """How long the steps of a model are under ordinary prompts, on one schedule.

    `measure_steps` makes them of a pipeline; `save` and `load` keep them in a file.
    """

    log_snr: tuple[float, ...]  # of each evaluation
    mean: tuple[float, ...]  # of the norms of the steps, as `step_norm` gives them
    std: tuple[float, ...]
    final: float  # mean norm of the last estimate
    scale: float  # guidance scale
    samples: int

    def save(self, file: str | Path) -> None:
        """Write them as JSON."""
        Path(file).write_text(json.dumps(asdict(self)) + "\n", "utf-8")

    @classmethod
    def load(cls, file: str | Path) -> StepStatistics:
        """Read them.

        Raises:
            BadSetting: the file does not exist, or holds something else.
        """
        try:
            content = json.loads(Path(file).read_text("utf-8"))
            log_snr, mean, std = (
                tuple(map(float, content[name])) for name in ("log_snr", "mean", "std")
            )
            final, scale = float(content["final"]), float(content["scale"])
            found = cls(log_snr, mean, std, final, scale, int(content["samples"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            names = ", ".join(field.name for field in fields(cls))
            raise BadSetting(
                f"expected statistics of steps in '{file}', a JSON object with {names} ({error}); "
                "make it with anechoic_lab.guidance.measure_steps(...).save(...)"
            ) from error
        if len({len(found.log_snr), len(found.mean), len(found.std)}) != 1:
            raise BadSetting(f"the lists of '{file}' have different lengths; measure it again")
        return found

    def at(self, log_snr: float) -> int:
        """The evaluation at a noise level.

        Raises:
            GuardError: there is none.
        """
        near = min(range(len(self.log_snr)), key=lambda i: abs(self.log_snr[i] - log_snr))
        if abs(self.log_snr[near] - log_snr) > SAME_LEVEL:
            raise GuardError(
                f"the statistics have no evaluation at log-SNR {log_snr:.2f}; measure them on the "
                "schedule and with the number of steps that generate"
            )
        return near


@dataclass(frozen=True)
class StepClamp(Guidance):
    """Plain guidance, whose steps are held to the size that they have under ordinary prompts.

    With E = u + scale*(c - u), y = x/alpha and the ordinary mean mu and deviation s of ||y - E|| at
    this noise level:

        E' = y - (y - E) * clip(||y - E||, mu - gamma*s, mu + gamma*s) / ||y - E||

    and at the last evaluation E' is rescaled to the ordinary mean norm. A first-order sampler steps
    from y by (y - E) times a factor that is the same for all samples, so this holds its steps to
    mu +- gamma*s; a sampler of higher order or with noise adds something that is left as it is.

    Args:
        statistics: of this model on this schedule, or the file that has them.
        scale: classifier-free guidance scale; it has to be that of the statistics.
        gamma: how many deviations a step may differ from the mean.

    Raises:
        BadSetting: a setting out of range, statistics that cannot be read or of another scale.
        GuardError: a noise level that the statistics do not have.

    Source: Broken Memories, 2026 (arXiv:2605.22050), second-hand: no code is published and we read
    its abstract and a summary alone. The paper holds the steps of the sampler's own latents, where
    this holds their deterministic part; that the final latents are what it rescales is our reading.
    """

    statistics: StepStatistics | str
    scale: float = 7.0
    gamma: float = 3.0

    def __post_init__(self) -> None:
        check_scale(self.scale)
        if not 0 < self.gamma < math.inf:
            raise BadSetting(f"expected gamma above 0, got {self.gamma}")
        if not isinstance(self.statistics, StepStatistics):
            object.__setattr__(self, "statistics", StepStatistics.load(self.statistics))
        if abs(self._known.scale - self.scale) > 1e-6:
            raise BadSetting(
                f"expected the scale of the statistics, {self._known.scale:g}, got {self.scale:g}; "
                "measure them at this scale"
            )

    @property
    def _known(self) -> StepStatistics:
        assert isinstance(self.statistics, StepStatistics)  # `__post_init__` saw to it
        return self.statistics

    def looks_back(self) -> bool:
        return False

    def __call__(self, step: Step) -> Guided:
        known, plain = self._known, Guided(self.scale).x0(step)
        at = known.at(step.noise.log_snr)
        reach = self.gamma * known.std[at]
        norm = step_norm(step, plain)
        share = norm.clamp(known.mean[at] - reach, known.mean[at] + reach) / norm.clamp_min(1e-12)
        notes = {
            "deviations": (norm - known.mean[at]) / max(known.std[at], 1e-12),
            "clamped": share != 1,
        }
        last = at == len(known.log_snr) - 1
        if not (last or notes["clamped"].any()):
            return Guided(self.scale, notes=notes)
        away = step.x / step.noise.alpha - plain
        held = plain + away * (1 - step.per_sample(share))
        if last:
            held = held * step.per_sample(known.final / flat_norm(held).clamp_min(1e-12))
        return Guided(self.scale, held - plain, notes)


def step_norm(step: Step, estimate: Tensor) -> Tensor:
    """||x/alpha - E||, which a first-order step is as long as, but for a common factor: [b]."""
    return flat_norm(step.x / step.noise.alpha - estimate)


def flat_norm(values: Tensor) -> Tensor:
    """The norm of each sample, [b]."""
    norm: Tensor = values.flatten(1).norm(dim=1)
    return norm


def measure_steps(
    pipe: Any,
    prompts: Sequence[str],
    arguments: Mapping[str, Any],
    scale: float,
    seeds: Sequence[int] = (0,),
) -> StepStatistics:
    """Measure the steps of a pipeline under ordinary prompts.

    Args:
        pipe: a pipeline that `guard` knows.
        prompts: ordinary ones; each is generated once a seed.
        arguments: the pipeline's own: see `anechoic.diffusers.pipelines.call_arguments`.
        scale: classifier-free guidance scale.
        seeds: of the noise.

    Raises:
        BadSetting: fewer than two samples, which have no deviation.
    """
    from anechoic.diffusers.generate import generate

    if len(prompts) * len(seeds) < 2:
        raise BadSetting("expected two samples or more, of which a deviation can be measured")
    traces = [
        generate(pipe, prompt, seed, arguments, _StepRecorder(scale)).trace
        for prompt in prompts
        for seed in seeds
    ]
    norms = torch.stack([trace.column("norm")[:, 0] for trace in traces], 1).double()
    finals = torch.stack([trace.column("final")[-1, 0] for trace in traces]).double()
    return StepStatistics(
        log_snr=tuple(round(record.noise.log_snr, 6) for record in traces[0].records),
        mean=tuple(round(value, 4) for value in norms.mean(1).tolist()),
        std=tuple(round(value, 4) for value in norms.std(1).tolist()),
        final=round(finals.mean().item(), 4),
        scale=scale,
        samples=len(traces),
    )


@dataclass(frozen=True)
class _StepRecorder(Guidance):
    scale: float

    def __call__(self, step: Step) -> Guided:
        plain = Guided(self.scale).x0(step)
        notes = {"norm": step_norm(step, plain), "final": flat_norm(plain)}
        return Guided(self.scale, notes=notes)
