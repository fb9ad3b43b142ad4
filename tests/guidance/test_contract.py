"""What every registered guidance has to keep; a new method is held to it for free."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from anechoic_lab.guidance import EmbeddingNoise, StepStatistics
from support.amg_toy import REFERENCE, Toy
from support.amg_toy import run as run_toy

from anechoic import guard
from anechoic.guidance import ClassifierFree, TransitionPoint

METHODS = sorted(
    (
        point
        for point in entry_points(group="anechoic.guidance")
        if point.name != "attenuation"  # needs a network with attention: lab/tests/guidance
    ),
    key=lambda point: point.name,
)
RATIOS = (500.0, 14.6, 1.0, 0.3)
XS = torch.cat([torch.tensor(case["x"], dtype=torch.float64) for case in REFERENCE["cases"][:3]])


INSIDE = {  # what a method of methods is made of
    "sequence": {"first": ClassifierFree(), "then": TransitionPoint(), "at": 0.5},
    "during": {"guidance": ClassifierFree(), "start": 0.25, "stop": 0.75},
    "prompted": {"prompt": EmbeddingNoise(), "guidance": ClassifierFree()},
    "screened": {"guidance": TransitionPoint(), "over": 0.0},
}
WIDE = StepStatistics(
    tuple(-2 * math.log(ratio) for ratio in (*RATIOS, 1e-3)), (1.0,) * 5, (1e6,) * 5, 1.0, 7.0, 2
)
OFF = {  # the settings that leave plain classifier-free guidance; strengths of 0 are refused
    "cfg": {}, "amg": {"c1": 0.0, "c2": 0.0, "c3": 1e-12}, "static": {"before": 7.0 - 1e-12},
    "dynamic": {"before": 7.0 - 1e-12}, "interval": {"start": 0.0, "stop": 1.0},
    "repellency": {"radius": 1e-12}, "volume": {"strength": 1e-12}, "optimize": {"target": 1e9},
    "noise": {"std": 1e-30},
    "during": {"start": 0.0, "stop": 1.0},
    "sequence": {"then": ClassifierFree()}, "prompted": {"prompt": EmbeddingNoise(std=1e-30)},
    "screened": {"over": 1e9}, "safe-denoiser": {"beta": 0.0},
    "step-clamp": {"statistics": WIDE}, "initial-noise": {"limit": 1e9, "start": 0.0},
    "kernel-gradient": {"strength": 1e-12}, "projection": {"opens": 0.999},
    "auto": {"opens": 0.9999}, "substitution": {"opens": 0.9999},
}  # fmt: skip


def made(point, toy, **changes):
    """The method with its defaults; one that compares gets the toy's store and an open gate."""
    method = point.load()
    known = {field.name for field in fields(method)}
    given = INSIDE.get(point.name, {})
    if "index" in known:
        wide = {"lambda_min": -1.0, "lambda_max": -1.0, "threshold": -1.0}
        wide |= {"opens": -0.99, "limit": -0.995}
        given = {"index": toy, "embedder": toy} | wide
        given = {name: value for name, value in given.items() if name in known}
    if "statistics" in known:
        given = given | {"statistics": replace(WIDE, std=(0.01,) * 5)}
    if "latents" in known:
        given = given | {"latents": XS / 2}
    return method(**given | changes)


def run(method, toy, xs):
    """Guided estimates down the noise levels, [n, b, *latent]."""
    return run_toy(method, toy, xs, RATIOS)[0]


@pytest.mark.parametrize("point", METHODS, ids=lambda point: point.name)
class TestEveryGuidance:
    def test_keeps_shape_and_type_and_is_finite_at_both_ends_of_the_schedule(self, point):
        toy = Toy()
        estimates = run(made(point, toy), toy, XS)
        assert estimates.shape == (len(RATIOS), *XS.shape)
        assert estimates.dtype == XS.dtype
        assert torch.isfinite(estimates).all()

    def test_guides_each_sample_of_a_batch_by_itself(self, point):
        toy = Toy()
        together = run(made(point, toy), toy, XS)
        alone = torch.cat([run(made(point, toy), toy, x) for x in XS.split(1)], 1)
        torch.testing.assert_close(together, alone)

    def test_is_deterministic_and_keeps_no_hidden_state(self, point):
        toy = Toy()
        method = made(point, toy)
        assert torch.equal(run(method, toy, XS), run(method, toy, XS))

    def test_is_frozen(self, point):
        method = made(point, Toy())
        with pytest.raises(AttributeError):
            method.scale = 3.0

    def test_refuses_a_scale_that_guides_nothing(self, point):
        if point.name in INSIDE:
            pytest.skip("its methods have the scale")
        with pytest.raises(Exception, match="scale above 1"):
            made(point, Toy(), scale=1.0)

    def test_switched_off_is_classifier_free_guidance(self, point, pipe, generate):
        if point.name in ("perturb", "cads"):
            pytest.skip("a prompt is changed or it is not")
        toy = Toy()
        plain, method = ClassifierFree(), made(point, toy, **OFF[point.name])
        torch.testing.assert_close(run(method, toy, XS), run(plain, toy, XS))
        compares = "index" in {field.name for field in fields(method)}  # with the toy's clips
        if method.changes_prompt and not compares:  # the toy has no prompt to change
            expected = generate(pipe)
            with guard(pipe, method):
                assert torch.equal(generate(pipe), expected)

    def test_names_its_source(self, point):
        assert "Source:" in point.load().__doc__

    def test_is_listed_in_the_docs(self, point):
        page = Path(__file__).parents[2] / "docs/reference/methods.md"
        assert f"`{point.name}`" in page.read_text()
