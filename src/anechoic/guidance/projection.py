"""Projection: keep the similarity to every training clip under a limit, by the smallest step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from anechoic.errors import BadSetting
from anechoic.guidance.base import ComparingGuidance, Reach
from anechoic.guidance.cfg import check_scale
from anechoic.guidance.quadratic import smallest_step
from anechoic.guidance.similarity import (
    SimilarityGradient,
    check_comparison,
    compared_at,
    gate_was_open,
    has_started,
    read_off,
    require_finite,
    why_idle,
)
from anechoic.guidance.step import Guided, Record, Step
from anechoic.guidance.triggers import LogSNR, Progress, Timestep
from anechoic.types import Embedder, VectorIndex

HELD = "held step"
SHARES = {"opens": 0.9, "limit": 0.25}  # of unrelated sound, that come less near to the index


@dataclass(frozen=True)
class Constraint:
    """A training set as one embedder compares it, and how near to it a sample may come.

    Args:
        index: the training set.
        embedder: the differentiable embedder that built the index.
        opens: similarity of the conditional estimate above which a sample is led away; None: a
            tenth of unrelated sound comes nearer than that.
        limit: similarity that a sample that is led away has to stay under; None: three quarters
            of unrelated sound come nearer than that.

    Where they are None, they are read off the index: each of its clips is unrelated sound for the
    rest of it (`VectorIndex.nearest_others`).
    """

    index: VectorIndex
    embedder: Embedder
    opens: float | None = None
    limit: float | None = None

    def __post_init__(self) -> None:
        self.similarity()  # refuses an embedder and an index that do not match
        missing = [name for name in SHARES if getattr(self, name) is None]
        if missing:
            read = read_off(self.index, *(SHARES[name] for name in missing))
            for name, value in zip(missing, read, strict=True):
                object.__setattr__(self, name, value)
        if not -1 < self.levels[1] <= self.levels[0] < 1:
            raise BadSetting(
                "expected cosines -1 < limit <= opens < 1, got a limit of "
                f"{self.levels[1]:g} and opens = {self.levels[0]:g}"
            )

    @property
    def levels(self) -> tuple[float, float]:
        """`opens` and `limit`."""
        assert self.opens is not None
        assert self.limit is not None
        return self.opens, self.limit

    def similarity(self) -> SimilarityGradient:
        """The similarity to this training set, and its gradient."""
        return SimilarityGradient(self.index, self.embedder, 1.0, "cond", "x0")


@dataclass(frozen=True)
class Projection(ComparingGuidance):
    """Leads samples that turn into a training clip away from it, by the smallest step that does.

    The wish is a constraint: the similarity s_k of the guided estimate to training clip k stays
    under a limit. A sample is watched: while the similarity of its conditional estimate stays
    under `opens`, its output is classifier-free guidance bit for bit. Above it, the sample is led
    away to the end of its run. At each comparison its step h grows by the smallest one that meets
    the linearised constraints at the guided estimate x0 with the step added:

        h <- h + argmin |d|^2  such that  s_k(x0 + h) + <grad s_k(x0 + h), d> <= limit  for all k
        out = u + scale*(c - u) + h

    The step is added at every evaluation, and only a comparison makes it longer: it is the dual
    variable that remembers. Without it, the network draws a sample that was moved once back to
    the clip. There is no strength: for one clip, d is Polyak's step, (limit - s) grad s /
    |grad s|^2. It is zero at the limit, and means the same at any noise level, guidance scale,
    number of steps and model. Comparisons are spaced by noise level, not by steps, for the same
    reason.

    Args:
        index: the training set to stay away from.
        embedder: the differentiable embedder that built the index.
        scale: classifier-free guidance scale.
        opens: see `Constraint`; by default read off the index.
        limit: likewise.
        also: further constraints, each by another embedder or index; all are met at once.
        neighbours: how many of the nearest training clips are kept away from at once.
        start: no sample is led away before this noise level, at which nothing is decided yet;
            samples are watched from the first step on.
        spacing: distance in log-SNR between the comparisons of a sample that is led away.
        watch: distance in log-SNR between the comparisons of one that is not.
        longest: length of the whole step, as a share of the length of the estimate.

    Raises:
        IndexMismatch: an index was built with another embedder, or is empty.
        BadSetting: a setting out of range.
        GuardError: while generating, sound longer than the window of a fixed-length embedder; an
            estimate or gradient that is not finite.

    It meets its limit, and often leaves the clip: the shortest way to a low similarity is a loud
    spot, beside which the clip stays as it was (docs/evidence/auto.md). Verify what it gives by
    another descriptor, or use `anechoic.auto.Auto`.

    Source: our own; the step is that of Polyak, 1969, the growing step that of Uzawa, 1958.
    """

    index: VectorIndex
    embedder: Embedder
    scale: float = 7.0
    opens: float | None = None
    limit: float | None = None
    also: tuple[Constraint, ...] = ()
    neighbours: int = 1
    start: LogSNR | Progress | Timestep | float | None = LogSNR(-6.0)
    spacing: float = 1.2
    watch: float = 3.0
    longest: float = 0.3

    def __post_init__(self) -> None:
        check_scale(self.scale)
        if self.neighbours < 1:
            raise BadSetting(f"expected neighbours, a number of 1 or more, got {self.neighbours}")
        object.__setattr__(self, "start", check_comparison(self.start, 1))
        for name in ("spacing", "watch"):
            if not 0 <= getattr(self, name) < 100:
                raise BadSetting(
                    f"expected {name}, a distance in log-SNR, from 0 to 100, got "
                    f"{getattr(self, name)}"
                )
        if not 0 < self.longest <= 1:
            raise BadSetting(f"expected longest, a share above 0 and up to 1, got {self.longest}")
        own = Constraint(self.index, self.embedder, self.opens, self.limit)
        object.__setattr__(self, "opens", own.opens)
        object.__setattr__(self, "limit", own.limit)

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """That of `index`, and all others."""
        return (Constraint(self.index, self.embedder, self.opens, self.limit), *self.also)

    def indexes(self) -> tuple[VectorIndex, ...]:
        return tuple(constraint.index for constraint in self.constraints)

    def embedders(self) -> tuple[Embedder, ...]:
        return tuple(constraint.embedder for constraint in self.constraints)

    def requires_uncond(self) -> bool:
        return False

    def gradient_reach(self) -> Reach:
        return "decoder"

    def with_threshold(self, similarity: float) -> Projection:
        return replace(self, opens=similarity, limit=min(similarity, self.constraints[0].levels[1]))

    def idle(self, records: Sequence[Record]) -> str | None:
        return why_idle(records, self.embedder.name)

    # ------------------------------------------------------------------------ one evaluation

    def __call__(self, step: Step) -> Guided:
        opened = gate_was_open(step).clone()
        due = self._due(step, opened)
        similarity, neighbour = torch.full((step.batch,), torch.nan), torch.full((step.batch,), -1)
        watched = (due & ~opened).nonzero()[:, 0]
        if len(watched):
            similarity[watched], neighbour[watched], over = self._watch(step.of(watched))
            opened[watched] = over
        held, led = step.memory.get(HELD), torch.empty(0, dtype=torch.long)
        if has_started(step, self.start):
            led = (due & opened).nonzero()[:, 0]
        if len(led):
            held = torch.zeros_like(step.cond) if held is None else held.clone()
            held[led], similarity[led], neighbour[led] = self._lead(step.of(led), held[led])
        notes = {"similarity": similarity, "neighbour": neighbour, "gate": opened}
        if held is None:
            return Guided(self.scale, notes=notes)
        return Guided(self.scale, held, notes, memory={HELD: held})

    def _due(self, step: Step, opened: Tensor) -> Tensor:
        """Which samples are compared at this evaluation, [b] of bool, on the CPU."""
        distance = torch.where(opened, self.spacing, self.watch)
        return step.noise.log_snr - compared_at(step) >= distance

    def _watch(self, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """Compare the conditional estimates of samples.

        Returns:
            The similarity to the nearest clip of `index` and its row, and whether any training set
            is nearer than it may be; [b] each, on the CPU.
        """
        found, over = [], torch.zeros(step.batch, dtype=torch.bool)
        for constraint in self.constraints:
            emb = constraint.similarity().embed(step).emb
            nearest = constraint.index.search(emb, 1)
            require_finite(nearest)
            found.append(nearest)
            over |= nearest.scores[:, 0].cpu() > constraint.levels[0]
        return found[0].scores[:, 0].float().cpu(), found[0].rows[:, 0].cpu(), over

    def _lead(self, step: Step, held: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Make the step of samples longer, where it does not keep them away from all clips.

        Returns:
            The steps [b, *latent]; the similarity to the nearest clip of `index` and its row, [b].
        """
        guided = step.guided(self.scale)
        values, gradients, limits, found = [], [], [], []
        for constraint in self.constraints:
            nearest, slopes = constraint.similarity().nearest_gradients(
                step, guided + held, self.neighbours
            )
            found.append(nearest)
            values.append(nearest.scores.to(slopes))
            gradients.append(slopes)
            limits.append(torch.full_like(values[-1], constraint.levels[1]))
        further = smallest_step(torch.cat(values, 1), torch.cat(gradients, 1), torch.cat(limits, 1))
        longest = self.longest * guided.flatten(1).norm(dim=1)
        lengths = further.norm(dim=1)
        stuck = (values[0][:, 0] > limits[0][:, 0]) & (lengths == 0)
        if bool(stuck.any()):  # at an exact copy no direction leads away by itself
            back = (step.uncond - step.cond).flatten(1)
            further = torch.where(stuck[:, None], back, further)
        held = held + further.view_as(held)
        length = held.flatten(1).norm(dim=1).clamp_min(1e-12)
        held = held * step.per_sample((longest / length).clamp_max(1.0))
        return held, found[0].scores[:, 0].float().cpu(), found[0].rows[:, 0].cpu()
