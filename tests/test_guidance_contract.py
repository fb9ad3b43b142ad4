"""What every registered guidance has to keep; a new method is held to it for free."""

from __future__ import annotations

from dataclasses import fields
from importlib.metadata import entry_points

import pytest
import torch
from test_guidance_amg import REFERENCE, Toy

from anechoic.step import Guided, Record

METHODS = sorted(entry_points(group="anechoic.guidance"), key=lambda point: point.name)
RATIOS = (500.0, 14.6, 1.0, 0.3)
XS = torch.cat([torch.tensor(case["x"], dtype=torch.float64) for case in REFERENCE["cases"][:3]])


def made(point, toy, **changes):
    """The method with its defaults; one that compares gets the toy's store and an open gate."""
    method = point.load()
    if "index" in {field.name for field in fields(method)}:
        return method(toy, toy, **{"lambda_min": -1.0, "lambda_max": -1.0, **changes})
    return method(**changes)


def run(method, toy, xs):
    """Guided estimates down the noise levels, [n, b, *latent]."""
    history, estimates = (), []
    for k, ratio in enumerate(RATIOS):
        step = toy.step(xs * (1 + ratio), ratio)
        step = type(step)(**{**vars(step), "history": history, "progress": k / len(RATIOS)})
        answer = method(step)
        answer = answer if isinstance(answer, Guided) else Guided(1.0, answer - step.cond)
        estimates.append(answer.x0(step))
        history += (Record(step.progress, step.noise, step.distance, answer.scales(len(xs))),)
    return torch.stack(estimates)


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
        with pytest.raises(Exception, match="scale above 1"):
            made(point, Toy(), scale=1.0)
