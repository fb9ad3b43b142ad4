"""What every guidance and every embedder has to keep, to hold your own to it.

```python
from anechoic.testing import check_guidance

def test_my_guidance():
    check_guidance(lambda index, embedder: MyGuidance(scale=7.0))
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from anechoic.guidance.base import Guidance, as_guidance
from anechoic.guidance.noise import NoiseLevel
from anechoic.guidance.step import Condition, Guided, Record, Step, as_guided
from anechoic.types import Embedder, Neighbours, VectorIndex

RATIOS = (500.0, 14.6, 1.0, 0.3)  # sigma / alpha, from pure noise to sound
RATE = 16  # Hz of the toy's sound

Make = Callable[[VectorIndex, Embedder], Guidance | Callable[[Step], Guided | Tensor]]


class Points(Embedder):
    """A model that knows five training points by heart, their embedder and their index in one.

    Its estimate is the posterior mean, which is known exactly: of the point that the prompt names
    where there is a prompt, and of all points without. Latents are [b, 1, 2], and their own sound.
    """

    name, dim, sample_rate = "points", 2, RATE
    model: str | None = None

    def __init__(self) -> None:
        angles = torch.tensor([0.0, 0.9, 2.0, 3.5, 5.0], dtype=torch.float64)
        self.points = torch.stack([angles.cos(), angles.sin()], 1)
        self.captions: Sequence[str] = [f"caption of point {i}" for i in range(len(angles))]

    # as an embedder, and as an index

    def __call__(self, wav: Tensor, sample_rate: int) -> Tensor:
        return torch.nn.functional.normalize(wav.mean(1), dim=1)

    def __len__(self) -> int:
        return len(self.points)

    def check_embedder(self, embedder: Embedder) -> None:
        """Its own embedder fits."""

    def project(self, emb: Tensor) -> Tensor:
        return emb

    def vectors(self, rows: Tensor) -> Tensor:
        return self.points[rows]

    def search(self, query: Tensor, k: int = 1) -> Neighbours:
        return Neighbours(*(query.double() @ self.points.T).topk(min(k, len(self))))

    def nearest_others(self) -> Tensor:
        return (self.points @ self.points.T).topk(2).values[:, 1]

    # as a model

    def step(self, x: Tensor, ratio: float, prompts: Sequence[str]) -> Step:
        """One evaluation for a batch [b, 1, 2] of noisy points, each under its prompt."""
        noise = NoiseLevel.from_ratio(ratio)

        def denoise(
            x: Tensor, condition: Condition | Sequence[str] | Tensor, rows: Tensor | None = None
        ) -> Tensor:
            chosen = list(prompts) if rows is None else [prompts[row] for row in rows.tolist()]
            if isinstance(condition, Tensor):
                raise NotImplementedError("the toy has no encoded prompts")
            if not isinstance(condition, str):
                chosen = list(condition)
            distance = (x - noise.alpha * self.points).square().sum(-1)
            weight = (-distance / (2 * noise.sigma**2)).softmax(1)
            if condition != "uncond":
                named = [[caption == text for caption in self.captions] for text in chosen]
                own = torch.tensor(named, dtype=weight.dtype)
                weight = torch.where(own.any(1, keepdim=True), 0.1 * weight + 0.9 * own, weight)
            return (weight @ self.points)[:, None]

        return Step(
            x=x, noise=noise, cond=denoise(x, "cond"), uncond=denoise(x, "uncond"), progress=0.0,
            history=(), denoise=denoise, decode=lambda x0, rows=None: x0, sample_rate=RATE,
        )  # fmt: skip


@dataclass(frozen=True)
class Walk:
    """A guidance on its way down the noise levels."""

    estimates: Tensor  # guided, [n, b, 1, 2]
    history: tuple[Record, ...]


def walk(method: Guidance, model: Points, x: Tensor, prompts: Sequence[str]) -> Walk:
    """Guide a batch [b, 1, 2] down the noise levels of `RATIOS`."""
    history: tuple[Record, ...] = ()
    memory: Mapping[str, Tensor] = {}
    estimates = []
    for number, ratio in enumerate(RATIOS):
        step = model.step(x * (1 + ratio) / (1 + ratio**2) ** 0.5, ratio, prompts)
        step = replace(step, history=history, progress=number / len(RATIOS), memory=memory)
        answer = as_guided(method(step), step)
        memory = answer.memory
        estimates.append(answer.x0(step))
        scales = answer.scales(step.batch)
        history += (Record(step.progress, step.noise, step.distance, scales, notes=answer.notes),)
    return Walk(torch.stack(estimates), history)


def check_guidance(make: Make) -> None:
    """Hold a guidance to what all of them keep, on a model of five training points.

    - Its estimates have the shape and type of the model's, and are finite from pure noise to sound.
    - Each sample of a batch is guided by itself: together as alone.
    - It has no hidden state, and nothing is random: the same input gives the same output.
    - Its settings cannot be changed.
    - Its docstring names the source of the method, in a line "Source: ...".

    A guidance that changes the encoded prompt is not asked to: the toy has no encoded prompts.

    Args:
        make: makes the guidance, from an index of the training points and its embedder. Have it act
            at any similarity, or the checks only see plain guidance.

    Raises:
        AssertionError: it does not keep one of these; the message says which.
    """
    model = Points()
    x = torch.randn(3, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prompts = [model.captions[0], "a prompt of no point", model.captions[3]]
    method = as_guidance(make(model, model))
    made = walk(method, model, x, prompts).estimates
    _require(
        made.shape == (len(RATIOS), *x.shape) and made.dtype == x.dtype,
        f"expected estimates {x.shape} of {x.dtype}, got {made.shape[1:]} of {made.dtype}",
    )
    _require(bool(torch.isfinite(made).all()), "an estimate is not finite")
    alone = [
        walk(method, model, one, [prompt]).estimates
        for one, prompt in zip(x.split(1), prompts, strict=True)
    ]
    _require(
        torch.allclose(made, torch.cat(alone, 1), atol=1e-6),
        "a sample of a batch is not guided as it is alone",
    )
    again = walk(method, model, x, prompts).estimates
    _require(torch.equal(made, again), "the same input gave another output the second time")
    if type(method).__module__ == "anechoic.guidance.base":  # a plain function
        return
    frozen = getattr(type(method), "__dataclass_params__", None)
    _require(bool(frozen and frozen.frozen), "it is not a frozen dataclass")
    _require("Source:" in (type(method).__doc__ or ""), "its docstring has no line 'Source: ...'")


def check_embedder(embedder: Embedder) -> None:
    """Hold an embedder of sound to what all of them keep.

    - It gives one unit vector of `dim` numbers a sound, finite, of any level and any rate.
    - Each sound of a batch is embedded as it is alone.
    - A gradient reaches the sound, is finite and is not zero.
    - Another level of the same sound gives nearly the same vector.

    Raises:
        AssertionError: it does not keep one of these; the message says which.
    """
    seconds = 1.0 if embedder.seconds is None else embedder.seconds
    for rate in dict.fromkeys((embedder.sample_rate, 44_100)):
        time = torch.arange(round(seconds * rate)) / rate
        noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
        tone = torch.sin(2 * torch.pi * 330 * time) * torch.exp(-3 * time / seconds)
        wav = torch.stack([0.5 * tone, 0.1 * noise])[:, None].repeat(1, 2, 1)
        emb = embedder(wav, rate)
        _require(
            emb.shape == (2, embedder.dim),
            f"expected embeddings (2, {embedder.dim}) at {rate} Hz, got {tuple(emb.shape)}",
        )
        lengths = emb.norm(dim=1)
        _require(
            torch.allclose(lengths, torch.ones(2).to(lengths), atol=1e-3),
            f"expected vectors of length 1 at {rate} Hz, got {lengths.tolist()}",
        )
        alone = torch.cat([embedder(one, rate) for one in wav.split(1)])
        _require(torch.allclose(emb, alone, atol=1e-4), "a sound is not embedded as it is alone")
        quiet = torch.nn.functional.cosine_similarity(emb, embedder(0.1 * wav, rate))
        _require(bool((quiet > 0.9).all()), f"at a tenth of the level: cosines {quiet.tolist()}")
    variable = wav.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(embedder(variable, rate)[:, 0].sum(), variable)
    _require(bool(torch.isfinite(gradient).all()), "a gradient is not finite")
    _require(bool((gradient != 0).any()), "no gradient reaches the sound")


def _require(kept: bool, otherwise: str) -> None:
    if not kept:
        raise AssertionError(otherwise)
