"""How close an estimate is to the training set, and the gradient of a measure of it.

What all methods share that compare the running estimate with training clips.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from anechoic.errors import BadSetting, GuardError, IndexMismatch
from anechoic.guidance.step import Step
from anechoic.types import Embedder, VectorIndex, require_embedder, require_whole

Estimate = Literal["cond", "guided"]
Gradient = Literal["denoiser", "x0"]


@dataclass(frozen=True)
class EmbeddedEstimate:
    """A step's estimate as the index hears it."""

    emb: Tensor  # projected, of unit norm, [b, d]
    kept: tuple[Tensor, Tensor] | None  # the estimate, and the embedding with its gradient


@dataclass(frozen=True)
class SimilarityGradient:
    """The estimate of a step as the training index hears it.

    Args:
        index: the training set.
        embedder: the differentiable descriptor the index was built with.
        scale: classifier-free guidance scale, of the guided estimate.
        estimate: which x0 estimate is embedded: "cond" or "guided".
        gradient: "denoiser" back-propagates through the network, as the papers do; "x0" stops
            at the estimate and takes the Jacobian of a unit Gaussian prior, `alpha`, instead:
            far cheaper.

    Raises:
        IndexMismatch: the index was built with another embedder, or is empty.
        BadSetting: an unknown estimate or gradient.
        GuardError: while generating, sound longer than a fixed-length embedder hears; an estimate
            or gradient that is not finite.
    """

    index: VectorIndex
    embedder: Embedder
    scale: float
    estimate: Estimate = "cond"
    gradient: Gradient = "denoiser"

    def __post_init__(self) -> None:
        for name, known in (("estimate", ("cond", "guided")), ("gradient", ("denoiser", "x0"))):
            if getattr(self, name) not in known:
                raise BadSetting(f"{name} is one of {known}, got {getattr(self, name)!r}")
        if len(self.index) == 0:
            raise IndexMismatch("the training index is empty: there is nothing to keep away from")
        require_embedder(self.embedder)
        self.index.check_embedder(self.embedder)

    def hear(self, step: Step, keep: bool = False) -> EmbeddedEstimate:
        """The embedding of the step's estimate.

        Args:
            step: the evaluation.
            keep: a gradient of it will be asked for, most likely: with the gradient stopped at the
                estimate, what is computed here then serves for it, too.
        """
        x0 = self._estimate(step.cond, step.uncond).detach()
        keep = keep and self.gradient == "x0"
        with torch.set_grad_enabled(keep):
            emb = self._embed(step, x0.requires_grad_(keep))
        return EmbeddedEstimate(emb.detach(), (x0, emb) if keep else None)

    def gradient_of(
        self, measure: Callable[[Tensor], Tensor], step: Step, heard: EmbeddedEstimate | None = None
    ) -> Tensor:
        """grad_x of a measure of the embedding, [b, *latent].

        Args:
            measure: projected embeddings [b, d] to a number for each, [b].
            step: the evaluation.
            heard: of this very step, if it was heard.
        """
        with torch.enable_grad():
            if self.gradient == "denoiser":
                variable = step.x.detach().requires_grad_(True)
                cond = step.denoise(variable, "cond")
                uncond = cond if self.estimate == "cond" else step.denoise(variable, "uncond")
                emb = self._embed(step, self._estimate(cond, uncond))
            else:
                if heard is None or heard.kept is None:
                    heard = self.hear(step, keep=True)
                assert heard.kept is not None
                variable, emb = heard.kept
            (gradient,) = torch.autograd.grad(measure(emb).sum(), variable)
        if self.gradient == "x0":
            gradient = step.noise.prior_gain * gradient
        if not torch.isfinite(gradient).all():
            raise GuardError(
                "the gradient of the similarity is not finite at log-SNR "
                f"{step.noise.log_snr:.2f}; the guidance cannot act. Run the model in a "
                "wider number format (fp32 or bf16), or try another embedder"
            )
        return gradient

    def _estimate(self, cond: Tensor, uncond: Tensor) -> Tensor:
        return cond if self.estimate == "cond" else uncond + self.scale * (cond - uncond)

    def _embed(self, step: Step, x0: Tensor) -> Tensor:
        wav = step.decode(x0)
        if step.sample_rate:  # an image has none
            seconds, sound = wav.shape[-1] / step.sample_rate, "the generated sound"
            fix = "generate less, or use an embedder and index with a longer window"
            require_whole(self.embedder, seconds, sound, "protected", fix, GuardError)
        emb = self.embedder(wav, step.sample_rate) if torch.isfinite(wav).all() else wav
        if not torch.isfinite(emb).all():
            raise GuardError(
                f"the estimate's sound or embedding is not finite at log-SNR "
                f"{step.noise.log_snr:.2f}; the guard cannot tell how near the training set it is. "
                "Lower the strength, or run the model in a wider number format (fp32 or bf16)"
            )
        return self.index.project(emb)
