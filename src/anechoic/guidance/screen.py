"""A method that guides only the samples whose prompt pulls as a memorized one does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anechoic.errors import BadSetting
from anechoic.guidance.base import Guidance, inner_guidance
from anechoic.guidance.cfg import check_scale
from anechoic.guidance.similarity import scatter_rows
from anechoic.guidance.step import Guided, Record, Step, StepInfo, as_guided
from anechoic.guidance.triggers import LogSNR, Progress, Timestep, as_trigger


@dataclass(frozen=True)
class Screened(Guidance):
    """Test once whether a prompt is memorized, and guard only the samples whose prompt may be.

    At the first evaluation from `at` on, the network is called on pure noise z at that level, and

        d = ||eps_c(z) - eps_u(z)||_2

    is compared with `over`. If it is larger, `guidance` acts from this evaluation on. Before, and
    for the other samples, guidance is plain: nothing is decoded or looked up. This costs one
    evaluation a run. On the run's own latents, which have been drawn to a clip by then, the same
    number does not tell memorized prompts from others (docs/evidence/speed.md).

    A sample that the screen misses is not protected at all. `over` belongs to a model, and to the
    level of the first evaluation from `at` on: calibrate it with `anechoic screen` on prompts
    that are known.

    Args:
        guidance: the method for suspected samples.
        over: d above which a sample is suspected.
        scale: classifier-free guidance scale of the others.
        at: `LogSNR`, `Progress` or `Timestep`; a plain number is a share of the schedule.
        seed: seed of the noise, which is the same for each sample.

    Raises:
        BadSetting: `over` is negative, or `guidance` changes the prompt: see `Prompted`.

    Source: our own, by the measure of Wen et al., 2024 (arXiv:2407.21720).
    """

    guidance: Guidance
    over: float
    scale: float = 7.0
    at: LogSNR | Progress | Timestep | float = LogSNR(-3.0)
    seed: int = 0

    def __post_init__(self) -> None:
        check_scale(self.scale)
        object.__setattr__(self, "at", as_trigger(self.at))
        if not 0 <= self.over < float("inf"):
            raise BadSetting(f"expected over, a norm, of 0 or more, got {self.over}")
        object.__setattr__(self, "guidance", inner_guidance(self.guidance, "Screened"))

    def children(self) -> tuple[Guidance, ...]:
        return (self.guidance,)

    def looks_back(self) -> bool:
        return self.guidance.looks_back()

    def idle(self, records: Sequence[Record]) -> str | None:
        if not any(self._reached(record) for record in records):
            return "it screened no sample: its 'at' comes after the last step; set it earlier"
        among = [record for record in records if bool(record.notes["suspected"].any())]
        return self.guidance.idle(among) if among else None

    def __call__(self, step: Step) -> Guided:
        b = step.batch
        if not self._reached(step):
            return Guided(self.scale, notes={"suspected": torch.zeros(b, dtype=torch.bool)})
        suspected = self._suspected(step)
        rows = suspected.nonzero()[:, 0].to(step.x.device)
        if len(rows) == 0:
            return Guided(self.scale, notes={"suspected": suspected})
        some = step.of(rows, keep_history=True)
        answer = as_guided(self.guidance(some), some)
        fill = {torch.bool: False, torch.long: -1}
        notes = {
            name: scatter_rows(value.to(rows.device), rows, b, fill.get(value.dtype, torch.nan))
            for name, value in answer.notes.items()
        }
        scale = scatter_rows(answer.scales(len(rows)).to(rows.device), rows, b, self.scale)
        delta = None if answer.delta is None else scatter_rows(answer.delta, rows, b, 0.0)
        x = None if answer.x is None else step.x.index_copy(0, rows, answer.x.to(step.x))
        memory = {name: scatter_rows(v, rows, b, 0.0) for name, v in answer.memory.items()}
        exact = answer.exact
        exact = None if exact is None else scatter_rows(exact.to(rows.device), rows, b, False)
        return Guided(scale, delta, {**notes, "suspected": suspected}, x, memory, exact)

    def _reached(self, info: StepInfo) -> bool:
        return as_trigger(self.at).reached(info)

    def _suspected(self, step: Step) -> Tensor:
        """Which samples are suspected, [b], on the CPU: from the history, or tested now."""
        for record in step.history[-1:]:
            if self._reached(record) and "suspected" in record.notes:
                return record.notes["suspected"]
        noise = torch.randn(step.x.shape[1:], generator=torch.Generator().manual_seed(self.seed))
        level = (step.noise.alpha**2 + step.noise.sigma**2) ** 0.5
        z = (level * noise).to(step.x).expand_as(step.x)
        pull = step.denoise(z, "cond") - step.denoise(z, "uncond")
        norms: Tensor = pull.flatten(1).float().norm(dim=1)
        return (norms / step.noise.ratio > self.over).cpu()
