"""The toy of the AMG reference, and a mixture of Gaussians whose posterior is known."""

from __future__ import annotations

import json
from dataclasses import replace

import torch

from anechoic.errors import IndexMismatch
from anechoic.guidance.noise import NoiseLevel
from anechoic.guidance.step import Guided, Record, Step
from anechoic.types import Neighbours
from support import TESTS
from support.latents import ZeroLatent

REFERENCE = json.loads((TESTS / "data" / "amg_reference.json").read_text())


class Toy:
    """The reference's toy: a denoiser, a decoder, an embedder and a store in float64."""

    name = "toy"
    dim, sample_rate, captions = 6, 16, REFERENCE["toy"]["captions"]
    seconds = revision = None
    latents = ZeroLatent()

    def __init__(self):
        toy = REFERENCE["toy"]
        self.weights, self.projection, self.embeddings = (
            torch.tensor(toy[k], dtype=torch.float64) for k in ("W", "P", "embeddings")
        )
        self.vectors_of = {
            k: torch.tensor(v, dtype=torch.float64) for k, v in toy["caption_vectors"].items()
        }

    def denoiser(self, x_ve, sigma, captions):
        z, s = x_ve.flatten(1), (1 + sigma**2) ** 0.5
        c = torch.stack([self.vectors_of[k] for k in captions])
        return (z / s**2 + sigma / s * torch.tanh(z / s @ self.weights.T + c)).reshape_as(x_ve)

    def decode(self, z, rows=None):
        up = z.repeat_interleave(2, -1)
        return torch.stack([up[:, 0] + up[:, 1], up[:, 1] - up[:, 2]], 1)

    def __call__(self, wav, sample_rate):
        mono = wav.mean(1)
        mono = mono / mono.abs().amax(1, keepdim=True)
        return torch.nn.functional.normalize(mono @ self.projection.T, dim=1)

    def __len__(self):
        return len(self.embeddings)

    def check_embedder(self, embedder):
        if embedder.name != self.name:
            raise IndexMismatch(f"built with '{self.name}'")

    def project(self, emb):
        return emb

    def vectors(self, rows):
        return self.embeddings[rows]

    def search(self, query, k=1):
        return Neighbours(*(query @ self.embeddings.T).topk(k))

    def nearest_others(self):
        return (self.embeddings @ self.embeddings.T).topk(2).values[:, 1]

    def step(self, x_ve, sigma):
        noise = NoiseLevel.from_ratio(sigma)
        b = len(x_ve)

        def denoise(x, condition, rows=None):
            assert len(x) == (b if rows is None else len(rows))
            names = {"cond": ["prompt"] * len(x), "uncond": [""] * len(x)}
            captions = names[condition] if isinstance(condition, str) else condition
            return self.denoiser(x / noise.alpha, sigma, captions)

        x = x_ve * noise.alpha
        return Step(
            x=x, noise=noise, cond=denoise(x, "cond"), uncond=denoise(x, "uncond"), progress=0.0,
            history=(), denoise=denoise, decode=self.decode, sample_rate=16,
        )  # fmt: skip


def gaussian_mixture_step(points, x, sigma, decode=lambda x0, rows=None: x0[:, None]):
    """The exact posterior mean of a few training points: it memorizes perfectly."""
    noise = NoiseLevel.from_ratio(sigma)

    def denoise(x, condition):
        logits = -((x[:, None] - noise.alpha * points) ** 2).sum(-1) / (2 * noise.sigma**2)
        return logits.softmax(1) @ points

    x0 = denoise(x, "cond")
    return Step(x, noise, x0, x0, 0.0, (), denoise, decode, 1)


class Identity:
    """Points are their own sound; cosine to each training point."""

    name = "identity"
    dim, sample_rate = 2, 1
    seconds = revision = None

    def __init__(self, points):
        self.points = torch.nn.functional.normalize(points, dim=1)
        self.captions = ["" for _ in points]

    def __call__(self, wav, sample_rate):
        return torch.nn.functional.normalize(wav[:, 0], dim=1)

    check_embedder = staticmethod(lambda embedder: None)
    __len__ = lambda self: len(self.points)  # noqa: E731
    project = staticmethod(lambda emb: emb)
    vectors = lambda self, rows: self.points[rows]  # noqa: E731
    search = lambda self, q, k=1: Neighbours(*(q @ self.points.T).topk(k))  # noqa: E731


RATIOS = (500.0, 60.0, 14.6, 5.0, 2.0, 1.0, 0.6, 0.3)


XS = torch.cat([torch.tensor(case["x"], dtype=torch.float64) for case in REFERENCE["cases"][:4]])


def run(method, toy, xs, ratios=RATIOS):
    """A run down the noise levels: estimates [n, b, *latent], and the record of each."""
    history, memory, estimates = (), {}, []
    for k, ratio in enumerate(ratios):
        step = toy.step(xs * (1 + ratio), ratio)
        step = replace(step, history=history, progress=k / len(ratios), memory=memory)
        answer = method(step)
        answer = answer if isinstance(answer, Guided) else Guided(1.0, answer - step.cond)
        memory = answer.memory
        estimates.append(answer.x0(step))
        scales = answer.scales(len(xs))
        history += (Record(step.progress, step.noise, step.distance, scales, notes=answer.notes),)
    return torch.stack(estimates), history


def run_amg(method, toy, xs):
    """A run: estimates [n, b, *latent], similarities [n, b], gates [n, b]."""
    estimates, history = run(method, toy, xs)
    notes = [record.notes for record in history]
    return (
        estimates,
        torch.stack([note["similarity"].double() for note in notes]),
        torch.stack([note["gate"] for note in notes]),
    )
