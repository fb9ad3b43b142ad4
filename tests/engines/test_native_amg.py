"""Anti-memorization guidance on a sampler of stable-audio-tools, against its authors' code."""

from __future__ import annotations

import math
from unittest.mock import patch

import pytest
import torch
from support.amg_toy import REFERENCE, Toy
from support.native import BOTH, LIBRARIES
from torch import nn

from anechoic import guard
from anechoic.guidance import AntiMemorization, ClassifierFree

SETTINGS = ("c1", "c2", "c3", "lambda_min", "lambda_max")


class SingleToy(Toy):
    """The toy in single precision, the format of a step."""

    def __init__(self):
        super().__init__()
        for name in ("weights", "projection", "embeddings"):
            setattr(self, name, getattr(self, name).float())
        self.vectors_of = {name: vector.float() for name, vector in self.vectors_of.items()}


class ToyText(nn.Module):
    """A caption is its vector, [b, 1, 24]."""

    def __init__(self, toy):
        super().__init__()
        self.toy = toy

    def forward(self, captions, device):
        vectors = torch.stack([self.toy.vectors_of[caption] for caption in captions])
        return vectors[:, None], torch.ones(len(captions), 1, dtype=torch.bool)


class ToyCodec(nn.Module):
    downsampling_ratio = 1

    def __init__(self, toy):
        super().__init__()
        self.toy, self.format = toy, nn.Parameter(torch.zeros(1))

    def decode(self, latents):
        return self.toy.decode(latents)


def toy_model(library, toy):
    """A model of the library whose network, text encoder and codec are the toy's."""
    model = library.make("v")
    model.conditioner.conditioners = nn.ModuleDict({"prompt": ToyText(toy)})
    model.cross_attn_cond_ids, model.global_cond_ids = ["prompt"], []
    model.get_conditioning_inputs = lambda tensors, negative=False: {
        "cross_attn_cond": tensors["prompt"][0],
        "global_cond": torch.zeros(len(tensors["prompt"][0]), 1),
    }
    model.pretransform = ToyCodec(toy)

    def predict(x, t, cross_attn_cond=None, **settings):
        rows = []
        for one, angle, vector in zip(x, t * math.pi / 2, cross_attn_cond[:, 0], strict=True):
            alpha, sigma = angle.cos(), angle.sin()
            toy.vectors_of["given"] = vector if vector.any() else toy.vectors_of[""]
            clean = toy.denoiser(one[None] / alpha, sigma / alpha, ["given"])
            rows.append((alpha * one - clean[0]) / sigma)
        return torch.stack(rows)

    model.model.model._forward = predict
    return model


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("case", REFERENCE["cases"], ids=range(len(REFERENCE["cases"])))
def test_a_step_of_their_sampler_lands_where_the_authors_code_does(case, name):
    library, toy = LIBRARIES[name], SingleToy()
    model = toy_model(library, toy)
    noise = torch.tensor(case["x"]) / case["sigma"]

    def generated(guidance):
        with (
            patch.object(torch, "randn", lambda *size, **_: noise.clone()),
            guard(model, guidance) as trace,
        ):
            made = library.call(
                model, conditioning=[{"prompt": "prompt"}], sample_size=8, steps=1, seed=0,
                sampler_type="k-heun", sigma_max=case["sigma"], return_latents=True,
                **({"apg_scale": 0.0} if hasattr(model.model.model, "apg_project") else {}),
            )  # fmt: skip
        return made, trace.records[0]

    settings = {key: case[key] for key in SETTINGS}
    amg = AntiMemorization(toy, toy, case["guidance_scale"], **settings, parity="reference")
    made, record = generated(amg)
    expected = torch.tensor(case["x0_guided"])
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert record.notes["neighbour"].item() == case["neighbour"]
    assert bool(record.notes["gate"]) == case["gate_open"]
    assert record.notes["similarity"].item() == pytest.approx(case["similarity"], abs=1e-5)
    assert record.notes["threshold"].item() == pytest.approx(case["threshold"], abs=1e-5)
    plain, _ = generated(ClassifierFree(case["guidance_scale"]))
    assert torch.equal(made, plain) == (not case["gate_open"])
