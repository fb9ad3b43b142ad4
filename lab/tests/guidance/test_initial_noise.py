"""Initial noise: the paper's step on a network whose pull is known, its limit, and its measure."""

from dataclasses import replace

import pytest
import torch
from anechoic_lab.guidance import InitialNoise
from anechoic_lab.guidance.initial_noise import ordinary_limit
from support.pipelines import require_alone_as_together

from anechoic import guard
from anechoic.diffusers.pipelines import call_arguments
from anechoic.errors import BadSetting, GuardError
from anechoic.guidance import ClassifierFree, During
from anechoic.guidance.noise import NoiseLevel
from anechoic.guidance.step import Step

NOISE = NoiseLevel.from_ratio(2.0)
PULL = torch.tensor([[3.0, 0.5], [0.5, 1.0]], dtype=torch.float64)  # eps_c - eps_u = PULL x
X = torch.tensor([[0.4, 0.1], [-0.3, -0.6]], dtype=torch.float64)


def step_at(x, progress=0.0):
    def denoise(x, condition, rows=None):
        return x - NOISE.ratio * (condition == "cond") * x @ PULL.T

    halves = {half: denoise(x, half) for half in ("cond", "uncond")}
    return Step(x, NOISE, progress=progress, history=(), denoise=denoise, decode=None,
                sample_rate=1, **halves)  # fmt: skip


def test_the_step_is_the_papers():
    """D is linear here, so D(x + radius D/||D||) - D(x) is PULL times that radius."""
    guided = InitialNoise(radius=0.5, step=0.2, iterations=1)(step_at(X))
    pull = X @ PULL.T
    unit = pull / pull.norm(dim=1, keepdim=True)
    expected = X - 0.2 * (0.5 * 2**0.5 * unit) @ PULL.T
    torch.testing.assert_close(guided.x, expected)


def test_it_lowers_the_pull_of_the_prompt():
    step = step_at(X)
    moved = InitialNoise(radius=0.1, step=0.1, iterations=3, start=0.0)(step)
    assert (step_at(moved.x).distance < step.distance).all()
    expected = step_at(moved.x)
    torch.testing.assert_close(
        moved.x0(step), expected.uncond + 7.0 * (expected.cond - expected.uncond)
    )


def test_a_sample_stops_at_the_limit_and_is_left_alone_under_it():
    step = step_at(torch.cat([X, 1e-3 * X]))
    limit = 0.5 * step.distance[:2].min().item()
    method = InitialNoise(radius=0.05, step=0.2, iterations=200, limit=limit)
    guided = method(step)
    assert torch.equal(guided.x[2:], step.x[2:])
    assert guided.notes["rounds"][2:].tolist() == [0, 0]
    assert (step_at(guided.x).distance <= limit).all()
    assert (guided.notes["rounds"][:2] < 200).all()
    small = method(step_at(1e-3 * X))
    assert small.x is None
    assert small.delta is None


def test_guidance_is_held_back_until_its_start():
    method = InitialNoise(scale=3.0, start=0.5)
    steps = [step_at(X, progress) for progress in (0.0, 0.25, 0.5, 0.75)]
    assert [method(step).scale for step in steps] == [0.0, 0.0, 3.0, 3.0]
    assert [method.needs(step) for step in steps] == ["both", "uncond", "both", "both"]


def test_a_generation_starts_where_it_was_moved(pipe, generate):
    """The rest of a run, from the moved latents, is plain guidance."""
    method = InitialNoise(step=30.0, start=0.0)
    with guard(pipe, method) as trace:
        generate(pipe)
    assert trace.column("scale").unique().tolist() == [7.0]
    assert trace.records[0].notes["rounds"].tolist() == [2, 2]
    assert trace.records[0].passes == 2 + 2 * 4
    require_alone_as_together(method, pipe, generate)


def test_where_no_sample_is_over_the_limit_it_is_plain_guidance(pipe, generate):
    with guard(pipe, ClassifierFree(7.0)):
        plain = generate(pipe)
    with guard(pipe, InitialNoise(limit=1e9, start=0.0)):
        assert torch.equal(generate(pipe), plain)


def test_a_run_that_it_joins_too_late_is_told(pipe, generate):
    late = During(InitialNoise(), 0.5, 1.0, outside=ClassifierFree())
    with pytest.raises(GuardError, match="not on at the first evaluation"), guard(pipe, late):
        generate(pipe)


def test_the_limit_is_a_quantile_of_the_first_distance(pipe):
    arguments = call_arguments(pipe, 7.0, 3)
    prompts = ["low cello note", "a dog barks", "rain on a roof"]
    distances = []
    for prompt in prompts:
        with guard(pipe, ClassifierFree()) as trace:
            pipe(prompt, generator=torch.Generator().manual_seed(0), **arguments)
        distances.append(trace.records[0].distances[0])
    limit = ordinary_limit(pipe, prompts, arguments, quantile=0.5)
    assert limit == pytest.approx(sorted(distances)[1])
    with pytest.raises(BadSetting, match="got none"):
        ordinary_limit(pipe, [], arguments)
    with pytest.raises(BadSetting, match="between 0 and 1"):
        ordinary_limit(pipe, prompts, arguments, quantile=1.5)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"radius": 0.0}, "radius above 0"),
        ({"step": -1.0}, "step above 0"),
        ({"iterations": 0}, "iterations of 1"),
        ({"limit": -1.0}, "a limit of 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(given, says):
    with pytest.raises(BadSetting, match=says):
        InitialNoise(**given)


def test_a_sample_without_a_pull_stays_finite():
    step = step_at(X)
    still = replace(step, cond=step.uncond)
    assert InitialNoise(limit=None)(still).x is None
