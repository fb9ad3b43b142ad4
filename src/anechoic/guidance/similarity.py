"""The similarity of the running estimate to the training set, and its gradient.

All methods that compare the estimate with training clips are built on this file.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from anechoic.errors import BadSetting, GuardError, IndexMismatch
from anechoic.guidance.base import ComparingGuidance, Reach
from anechoic.guidance.cfg import check_scale
from anechoic.guidance.step import Guided, Record, Step
from anechoic.guidance.triggers import Point, Progress, as_trigger
from anechoic.types import (
    LONGER_WINDOW,
    Embedder,
    Neighbours,
    VectorIndex,
    require_embedder,
    require_whole,
)

Estimate = Literal["cond", "guided"]
Gradient = Literal["denoiser", "x0"]
Start = Point | float | None

HIGHEST = 1 - 1e-3  # of the similarities that are read off an index

INFERENCE_MODE = (
    "the guidance needs a gradient, which torch.inference_mode forbids; generate, and load the "
    "model, the embedder and the index, outside of inference_mode (torch.no_grad is fine)"
)


@dataclass(frozen=True)
class EmbeddedEstimate:
    """The embedding of a step's estimate, in the space of the index."""

    emb: Tensor  # projected, unit norm, [b, d]
    graph: tuple[Tensor, Tensor] | None  # the estimate, and the embedding with its gradient


@dataclass(frozen=True)
class SimilarityGradient:
    """The similarity of a step's estimate to the training set, and its gradient.

    Args:
        index: the training set.
        embedder: the differentiable embedder that built the index.
        scale: classifier-free guidance scale of the guided estimate.
        estimate: which x0 estimate is embedded: "cond" or "guided".
        gradient: "denoiser" back-propagates through the network, as the papers do; "x0" stops
            at the estimate and takes the Jacobian of a unit Gaussian prior, `alpha`, instead:
            far cheaper.

    Raises:
        IndexMismatch: the index was built with another embedder, or is empty.
        BadSetting: an unknown estimate or gradient.
        GuardError: while generating, sound longer than the window of a fixed-length embedder; an
            estimate or gradient that is not finite.
    """

    index: VectorIndex
    embedder: Embedder
    scale: float
    estimate: Estimate = "cond"
    gradient: Gradient = "denoiser"

    def __post_init__(self) -> None:
        for name, known in (("estimate", ("cond", "guided")), ("gradient", ("denoiser", "x0"))):
            if getattr(self, name) not in known:
                raise BadSetting(f"expected {name} among {known}, got {getattr(self, name)!r}")
        if len(self.index) == 0:
            raise IndexMismatch(
                "the training index is empty, so there is nothing to stay away from; build it anew"
            )
        require_embedder(self.embedder)
        self.index.check_embedder(self.embedder)

    def embed(self, step: Step, keep: bool = False) -> EmbeddedEstimate:
        """The embedding of the step's estimate.

        Args:
            step: the evaluation.
            keep: keep the graph because a gradient will probably be needed. If the gradient stops
                at the estimate, the embedding is then not computed twice.
        """
        x0 = self._estimate(step.cond, step.uncond).detach()
        keep = keep and self.gradient == "x0"
        with torch.set_grad_enabled(keep):
            emb = self.embed_estimate(step, x0.requires_grad_(keep))
        return EmbeddedEstimate(emb.detach(), (x0, emb) if keep else None)

    def gradient_of(
        self,
        measure: Callable[[Tensor], Tensor],
        step: Step,
        embedded: EmbeddedEstimate | None = None,
    ) -> Tensor:
        """grad_x of a measure of the embedding, [b, *latent].

        Args:
            measure: maps projected embeddings [b, d] to numbers [b].
            step: the evaluation.
            embedded: the embedding of the same step, if it was computed.
        """
        with self._explained():
            variable, emb = self._graph(step, embedded)
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(measure(emb).sum(), variable)
        if self.gradient == "x0":
            gradient = step.noise.prior_gain * gradient
        problem = "not finite" if not torch.isfinite(gradient).all() else ""
        if not bool(gradient.flatten(1).any(1).all()):
            problem = "zero"
        if problem:
            raise GuardError(
                f"the gradient of the similarity is {problem} at log-SNR "
                f"{step.noise.log_snr:.2f}, so the guidance cannot act. Run the model in a "
                "wider number format (fp32 or bf16), or try another embedder"
            )
        return gradient

    def nearest_gradients(self, step: Step, x0: Tensor, k: int) -> tuple[Neighbours, Tensor]:
        """The k training clips nearest to an estimate, and the gradients of their similarities.

        Args:
            step: the evaluation.
            x0: estimates [b, *latent], which need not be those of the step.
            k: how many; all clips of an index that has fewer.

        Returns:
            The neighbours, [b, k], and grad_x0 of each similarity, [b, k, n].
        """
        variable = x0.detach().requires_grad_(True)
        with self._explained(), torch.enable_grad():
            emb = self.embed_estimate(step, variable)
            nearest = self.index.search(emb.detach(), min(k, len(self.index)))
            targets = self.index.vectors(nearest.rows).to(emb)
            similarities = (emb[:, None] * targets).sum(2).sum(0)
            gradients = [
                torch.autograd.grad(one, variable, retain_graph=True)[0].flatten(1)
                for one in similarities
            ]
        require_finite(nearest)
        return nearest, torch.stack(gradients, 1)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """A gradient that cannot be had is explained in one sentence."""
        try:
            yield
        except RuntimeError as error:
            if "nference" in str(error):
                raise GuardError(INFERENCE_MODE) from error
            if "does not require grad" in str(error) or "not have been used" in str(error):
                raise GuardError(
                    f"embedder '{self.embedder.name}' has no gradient, so the guidance cannot act; "
                    "use one that is differentiable"
                ) from error
            raise

    def _graph(self, step: Step, embedded: EmbeddedEstimate | None) -> tuple[Tensor, Tensor]:
        """The variable of the gradient, and the embedding that depends on it."""
        with torch.enable_grad():
            if self.gradient == "denoiser":
                variable = step.x.detach().requires_grad_(True)
                cond = step.denoise(variable, "cond")
                uncond = cond if self.estimate == "cond" else step.denoise(variable, "uncond")
                return variable, self.embed_estimate(step, self._estimate(cond, uncond))
        if embedded is None or embedded.graph is None:
            embedded = self.embed(step, keep=True)
        assert embedded.graph is not None
        return embedded.graph

    def _estimate(self, cond: Tensor, uncond: Tensor) -> Tensor:
        return cond if self.estimate == "cond" else uncond + self.scale * (cond - uncond)

    def embed_estimate(self, step: Step, x0: Tensor) -> Tensor:
        """The projected embedding [b, d] of the sound or image of x0 [b, *latent]."""
        wav = step.decode(x0)
        if step.sample_rate:  # an image has none
            seconds, sound = wav.shape[-1] / step.sample_rate, "the generated sound"
            require_whole(self.embedder, seconds, sound, "protected", LONGER_WINDOW, GuardError)
        emb = self.embedder(wav, step.sample_rate) if torch.isfinite(wav).all() else wav
        level = f"log-SNR {step.noise.log_snr:.2f}"
        if not torch.isfinite(emb).all():
            raise GuardError(
                f"the estimate's sound or embedding is not finite at {level}, so it cannot be "
                "compared with the training set. Lower the strength, or run the model in a "
                "wider number format (fp32 or bf16)"
            )
        if emb.dim() != 2 or len(emb) != len(x0):
            raise GuardError(
                f"expected embeddings ({len(x0)}, {self.embedder.dim}) from embedder "
                f"'{self.embedder.name}', got {tuple(emb.shape)}; fix the embedder"
            )
        projected = self.index.project(emb)
        if any(bool((rows.detach().norm(dim=1) < 0.1).any()) for rows in (emb, projected)):
            raise GuardError(
                f"embedder '{self.embedder.name}' gave an embedding of length 0, or the mean of "
                f"the training set, at {level}; it has no direction to compare, so the guard "
                "cannot act. Use another embedder"
            )
        return projected


class GatedGuidance(ComparingGuidance):
    """A method that acts on the samples whose estimate comes too near to a training clip; for the
    others, it is classifier-free guidance bit for bit."""

    scale: float
    estimate: Estimate
    gradient: Gradient
    start: Start
    every: int

    def __post_init__(self) -> None:
        check_scale(self.scale)
        object.__setattr__(self, "start", check_comparison(self.start, self.every))
        self._similarity()  # refuses an embedder and an index that do not match

    @abstractmethod
    def gate(self, abar: float) -> float:
        """The similarity above which the method acts."""

    @abstractmethod
    def act(self, step: Step, nearest: Neighbours, embedded: EmbeddedEstimate | None) -> Guided:
        """Guide samples whose gate is open; the result has no notes.

        Args:
            step: these samples alone.
            nearest: their nearest training clips.
            embedded: their embedded estimates, if all compared samples are among them.
        """

    @property
    def neighbours(self) -> int:
        """How many of the nearest training clips are looked up."""
        return 1

    def __call__(self, step: Step) -> Guided:
        threshold = self.gate(step.noise.abar)
        rows = rows_to_compare(step, self.start, self.every)
        if len(rows) == 0:
            return Guided(self.scale, notes=similarity_notes(step, rows, None, threshold))
        compared = step.of(rows)
        keep = self.gradient_reach() != "none" and bool(gate_was_open(step).any())
        embedded = self._similarity().embed(compared, keep)
        nearest = self.index.search(embedded.emb, min(self.neighbours, len(self.index)))
        require_finite(nearest)
        notes = similarity_notes(step, rows, nearest, threshold)
        opened = (nearest.scores[:, 0] > threshold).nonzero()[:, 0]
        if len(opened) == 0:
            return Guided(self.scale, notes=notes)
        acting = compared.of(opened)
        near = Neighbours(nearest.scores[opened], nearest.rows[opened])
        answer = self.act(acting, near, embedded if acting is compared else None)
        scale, delta, rows = answer.scale, answer.delta, rows[opened]
        if isinstance(scale, Tensor):
            scale = scatter_rows(scale, rows, step.batch, self.scale)
        if delta is not None:
            delta = scatter_rows(delta, rows, step.batch, 0.0)
        return Guided(scale, delta, notes)

    def idle(self, records: Sequence[Record]) -> str | None:
        return why_idle(records, self.embedder.name)

    def _similarity(self) -> SimilarityGradient:
        return SimilarityGradient(
            self.index, self.embedder, self.scale, self.estimate, self.gradient
        )

    def _reach(self, strength: float) -> Reach:
        if strength == 0:
            return "none"
        return "network" if self.gradient == "denoiser" else "decoder"


# ------------------------------------------------------------------ when estimates are compared


def has_started(step: Step, start: Start) -> bool:
    """Whether a run has reached the first point at which anything is compared; None: the first
    step."""
    return start is None or as_trigger(start).reached(step)


def rows_to_compare(step: Step, start: Start, every: int) -> Tensor:
    """The rows of the samples to compare at this evaluation, on the device of the latents.

    No sample is compared before `start`. After it, a sample is compared at every evaluation while
    its gate is open, and at one of `every` evaluations while it is shut.

    Args:
        step: the evaluation.
        start: the first point at which anything is compared; None: the first step.
        every: while a gate is shut, one of this many evaluations is compared.
    """
    b, device = step.batch, step.x.device
    if not has_started(step, start):
        return torch.empty(0, dtype=torch.long, device=device)
    recent = step.history[len(step.history) - every + 1 :] if every > 1 else ()
    compared = torch.zeros(b, dtype=torch.bool)
    for record in recent:
        if "similarity" in record.notes:
            compared |= ~record.notes["similarity"].isnan()
    return (~compared | gate_was_open(step)).nonzero()[:, 0].to(device)


def read_off(index: VectorIndex, *shares: float) -> list[float]:
    """The similarities that these shares of unrelated sound stay under, by how near the clips of an
    index come to each other; each below 1, so that an exact copy is above it.

    A training set that a model memorizes holds near duplicates, which stand at the upper end and
    say nothing of unrelated sound. So the half below the median decides: a normal distribution of
    Fisher's z = artanh(similarity) with its median and its lower quartile.
    """
    z = torch.atanh(index.nearest_others().double().clamp(-HIGHEST, HIGHEST))
    lower, median = torch.quantile(z, 0.25), torch.quantile(z, 0.5)
    normal = NormalDist()
    spread = (median - lower) / normal.inv_cdf(0.75)
    found = [torch.tanh(median + normal.inv_cdf(share) * spread).item() for share in shares]
    return [min(value, HIGHEST) for value in found]


def log_abar(log_snr: Tensor) -> Tensor:
    """The logarithm of abar: the log-SNR in noise, and nearly 0 once signal prevails."""
    return logsigmoid(log_snr)


def compared_at(step: Step) -> Tensor:
    """The log-SNR at which each sample was last compared, [b]; minus infinity: never."""
    last = torch.full((step.batch,), -torch.inf)
    for record in reversed(step.history):
        compared = ~record.notes.get("similarity", last.new_full(last.shape, torch.nan)).isnan()
        last[compared & last.isinf()] = record.noise.log_snr
        if not last.isinf().any():
            break
    return last


def gate_was_open(step: Step) -> Tensor:
    """Which samples had an open gate at the previous evaluation, [b] of bool, on the CPU."""
    shut = torch.zeros(step.batch, dtype=torch.bool)
    return step.history[-1].notes.get("gate", shut) if step.history else shut


def similarity_notes(
    step: Step, rows: Tensor, nearest: Neighbours | None, threshold: float
) -> Mapping[str, Tensor]:
    """The notes of an evaluation, [b] each. A sample that was not compared has the similarity NaN,
    the neighbour -1 and a shut gate."""
    b = step.batch
    if nearest is None:
        sim, neighbour = torch.full((b,), torch.nan), torch.full((b,), -1)
    else:
        sim = scatter_rows(nearest.scores[:, 0], rows, b, torch.nan)
        neighbour = scatter_rows(nearest.rows[:, 0], rows, b, -1)
    return {
        "similarity": sim,
        "neighbour": neighbour,
        "gate": sim > threshold,  # NaN is not
        "threshold": torch.full_like(sim, threshold),
    }


def why_idle(records: Sequence[Record], embedder: str) -> str | None:
    """Why a method that compares cannot have acted, as a clause; None: it could have.

    Args:
        records: of a generation; their notes hold the similarities.
        embedder: the name of the embedder that it compares by.
    """
    notes = [record.notes["similarity"] for record in records if "similarity" in record.notes]
    compared = [values for values in (note[~note.isnan()] for note in notes) if len(values)]
    if not compared:
        return (
            "it compared no estimate with the training set, since its start comes after the "
            "last step; choose an earlier one, or more steps"
        )
    if len(compared) > 1 and len(torch.cat(compared).unique()) == 1:
        return (
            f"embedder '{embedder}' gave every estimate the same similarity, "
            f"{compared[0][0]:.4g}; use one whose embeddings depend on the sound or image"
        )
    return None


def require_finite(nearest: Neighbours) -> None:
    """Refuse similarities that are not finite.

    Raises:
        GuardError: one is not.
    """
    if not torch.isfinite(nearest.scores).all():
        raise GuardError(
            "the training index gave a similarity that is not finite, so nothing can be "
            "compared; check it with 'anechoic index info --check'"
        )


def scatter_rows(values: Tensor, rows: Tensor, batch: int, rest: float) -> Tensor:
    """Spread the values of some rows over the whole batch, with `rest` for the other rows.

    >>> scatter_rows(torch.tensor([0.5, 0.7]), torch.tensor([0, 2]), 3, 0.0)
    tensor([0.5000, 0.0000, 0.7000])
    """
    if len(values) == batch:
        return values
    all_rows = values.new_full((batch, *values.shape[1:]), rest)
    all_rows[rows] = values
    return all_rows


def check_comparison(start: Start, every: int) -> Point | None:
    """Return `start` as a point.

    Raises:
        BadSetting: `every` is below 1, or `start` is not a valid point.
    """
    if every < 1 or every != int(every):
        raise BadSetting(f"expected every, a number of evaluations, of 1 or more, got {every}")
    point = None if start is None else as_trigger(start)
    if point == Progress(1.0):
        raise BadSetting(
            "start is the end of the schedule, so nothing would be compared; choose an earlier one"
        )
    return point
