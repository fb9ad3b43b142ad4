"""Transition points, against their definitions."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anechoic.errors import BadSetting
from anechoic.guidance import DynamicTransition, LogSNR, Progress, Timestep, TransitionPoint
from anechoic.guidance.noise import NoiseLevel
from anechoic.guidance.step import Record, Step
from anechoic.guidance.triggers import first_minimum


def step(distance, ratio=1.0, progress=0.0, history=()):
    """A step whose d_t is given: c - u is one coordinate of length d * sigma/alpha."""
    d = torch.as_tensor(distance, dtype=torch.float64)
    uncond = torch.zeros(len(d), 1, dtype=torch.float64)
    return Step(
        uncond, NoiseLevel.from_ratio(ratio), (d * ratio)[:, None], uncond, progress, history,
        denoise=None, decode=None, sample_rate=1,
    )  # fmt: skip


def run(guidance, rows, ratios=None):
    """The scales of a whole run with these distances, [n, b]."""
    history, scales = (), []
    for k, row in enumerate(rows):
        s = step(row, (ratios or [1.0] * len(rows))[k], k / len(rows), history)
        scales.append(guidance(s).scales(len(s.x)))
        history += (Record(s.progress, s.noise, s.distance, scales[-1]),)
    return torch.stack(scales)


def test_dynamic_switches_at_the_first_local_minimum_for_each_sample_and_holds():
    left = [5, 4, 3, 3.5, 2, 1, 1, 1]  # minimum at 2, told at 3
    right = [1, 2, 3, 4, 3, 2, 2, 2.5]  # a plateau is no minimum: 2, 2, then 2.5
    scales = run(DynamicTransition(7.0, before=-2.0), list(zip(left, right, strict=True)))
    assert scales[:, 0].tolist() == [-2.0] * 3 + [7.0] * 5
    assert scales[:, 1].tolist() == [-2.0] * 8


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20))
def test_dynamic_agrees_with_the_papers_sentence(distances):
    """The switch is at step k when d[k-1] < d[k-2] and d[k] > d[k-1], once and for all."""
    d = distances
    said = [k for k in range(2, len(d)) if d[k - 1] < d[k - 2] and d[k] > d[k - 1]]
    assert first_minimum(d) == (said[0] if said else None)
    scales = run(DynamicTransition(7.0, before=-2.0), [[value] for value in d])[:, 0].tolist()
    first = said[0] if said else len(d)
    assert scales == [-2.0] * first + [7.0] * (len(d) - first)


def test_the_fall_rule_looks_at_x0_space_where_noise_does_not_scale_the_distance():
    ratios = [100.0, 50.0, 20.0, 10.0, 5.0]
    in_x0 = [4.0, 4.4, 4.0, 2.1, 4.0]  # under half of 4.4 at step 3
    rows = [[x / r] for x, r in zip(in_x0, ratios, strict=True)]
    scales = run(DynamicTransition(7.0, before=0.0, fall=0.5), rows, ratios)
    assert scales[:, 0].tolist() == [0.0, 0.0, 0.0, 7.0, 7.0]


def test_static_switches_at_its_share_of_the_schedule():
    scales = run(TransitionPoint(7.0, before=-2.0, at=0.5), [[1.0]] * 10)
    assert scales[:, 0].tolist() == [-2.0] * 5 + [7.0] * 5


def test_a_timestep_means_its_noise_level_in_stable_diffusion():
    """abar of SD's scaled-linear schedule at t=500 is 0.2763 (sigma/alpha 1.618)."""
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    ).alphas_cumprod[500]
    edge = ((1 - theirs) / theirs).sqrt().item()
    assert edge == pytest.approx(1.618, abs=1e-3)
    point = TransitionPoint(7.0, at=Timestep(500))
    assert run(point, [[1.0]] * 2, [edge * 1.01, edge * 0.99])[:, 0].tolist() == [0.0, 7.0]


def test_a_log_snr_is_a_noise_level_whatever_the_schedule():
    edge = 3.0
    point = TransitionPoint(7.0, at=LogSNR(-2 * math.log(edge)))
    assert run(point, [[1.0]] * 2, [edge * 1.01, edge * 0.99])[:, 0].tolist() == [0.0, 7.0]


def test_zero_and_opposite_guidance_are_the_papers_combinations():
    s = replace(step([2.0]), uncond=torch.tensor([[3.0]]), cond=torch.tensor([[5.0]]))
    assert TransitionPoint(7.0, 0.0, at=1.0)(s).x0(s).item() == 3.0  # u
    assert TransitionPoint(7.0, -2.0, at=1.0)(s).x0(s).item() == 3.0 - 2.0 * 2.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: TransitionPoint(1.0),
        lambda: TransitionPoint(7.0, before=8.0),
        lambda: Progress(1.2),
        lambda: Timestep(1000),
        lambda: DynamicTransition(7.0, fall=1.0),
        lambda: DynamicTransition(0.5),
    ],
)
def test_a_setting_out_of_range_is_refused(make):
    with pytest.raises(BadSetting, match="got"):
        make()
