"""Repellency: nothing outside the balls, and out of all of them after the step."""

from dataclasses import replace

import pytest
import torch
from support.amg_toy import gaussian_mixture_step

from anechoic.errors import BadSetting, GuardError, IndexMismatch
from anechoic.guidance.noise import NoiseLevel
from anechoic.guidance.repellency import Repellency
from anechoic.guidance.step import Guided, Record, Step
from anechoic.index import TrainingIndex
from anechoic.index.latents import LatentIndex

SHAPE = (3, 4)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(cond, uncond, ratio=1.0):
    """An evaluation with these estimates."""
    noise = NoiseLevel.from_ratio(ratio)
    return Step(torch.zeros_like(cond), noise, cond, uncond, 0.0, (), None, None, 16)


def near(store, offset, seed=1):
    """An evaluation whose guided estimates at scale 2 lie so far from each training latent."""
    direction = drawn(len(store), *SHAPE, seed=seed)
    length = direction.flatten(1).norm(dim=1)[:, None, None]
    guided = LATENTS + offset * direction / length
    uncond = drawn(*guided.shape, seed=seed + 1)
    return at((guided + uncond) / 2, uncond)


LATENTS = drawn(4, *SHAPE)
STORE = LatentIndex.of(LATENTS)


def test_outside_of_the_balls_it_is_classifier_free_guidance_bit_for_bit():
    step = near(STORE, 0.6)
    method = Repellency(STORE, 2.0, radius=0.5)
    assert torch.equal(method(step).x0(step), Guided(2.0).x0(step))
    assert method(step).delta is None
    assert not method(step).notes["gate"].any()


@pytest.mark.parametrize("radius", [0.5, 2.0, 8.0])
def test_the_estimate_is_out_of_all_balls_after_the_step(radius):
    step = near(STORE, 0.3)
    answer = Repellency(STORE, 2.0, radius)(step)
    left = torch.cdist(answer.x0(step).flatten(1), LATENTS.flatten(1))
    assert left.min() > radius - 1e-5
    assert answer.notes["gate"].all()
    torch.testing.assert_close(answer.notes["latent_distance"], torch.full((4,), 0.3).double())
    assert answer.notes["neighbour"].tolist() == [0, 1, 2, 3]


def test_in_one_ball_it_is_spell_with_an_overcompensation_of_1():
    step = near(STORE, 0.3)
    offset = Guided(2.0).x0(step) - LATENTS
    torch.testing.assert_close(Repellency(STORE, 2.0, 0.5)(step).delta, (0.5 / 0.3 - 1) * offset)


def test_an_exact_copy_is_left_too():
    step = near(STORE, 0.0)
    answer = Repellency(STORE, 2.0, 0.5)(step)
    left = (answer.x0(step) - LATENTS).flatten(1).norm(dim=1)
    torch.testing.assert_close(left, torch.full((4,), 0.5).double(), atol=1e-5, rtol=0)


def test_samples_at_levels_of_their_own_and_in_any_batch_are_guided_alike():
    step = near(STORE, 0.3)
    ratios = torch.tensor([0.1, 1.0, 5.0, 50.0])
    method = Repellency(STORE, 2.0, 2.0)
    together = method(replace(step, noise=NoiseLevel.from_ratio(ratios))).delta
    for row in range(4):
        torch.testing.assert_close(together[row, None], method(step.of(torch.tensor([row]))).delta)


def test_without_an_unconditional_half_the_conditional_estimate_is_kept_out():
    cond = near(STORE, 0.3).cond * 0 + LATENTS + 0.01
    step = at(cond, torch.full_like(cond, torch.nan))
    delta = Repellency(STORE, 2.0, 0.5)(step).delta
    left = (cond + delta - LATENTS).flatten(1).norm(dim=1)
    torch.testing.assert_close(left, torch.full((4,), 0.5).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_a_sampler_that_would_return_a_training_point_ends_on_its_sphere(seed):
    """The exact posterior mean of three points: unguarded, each sample is one of them."""
    points = 4 * drawn(3, 6, seed=5)
    store, ratios = LatentIndex.of(points), torch.logspace(2, -3, 60).double().tolist()
    starts = drawn(8, 6, seed=seed)

    def sample(method):
        x = starts * NoiseLevel.from_ratio(ratios[0]).sigma
        for ratio, following in zip(ratios, [*ratios[1:], 1e-9], strict=True):
            step, noise = gaussian_mixture_step(points, x, ratio), NoiseLevel.from_ratio(following)
            x0 = step.cond if method is None else method(step).x0(step)
            eps = (x - step.noise.alpha * x0) / step.noise.sigma
            x = noise.alpha * x0 + noise.sigma * eps
        return torch.cdist(x, points).min(1).values

    assert sample(None).max() < 1e-6
    ends = sample(Repellency(store, 2.0, radius=1.5))
    torch.testing.assert_close(ends, torch.full((8,), 1.5).double(), atol=1e-4, rtol=0)


def test_the_radius_is_read_off_the_index():
    points = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [2.0, 3.0, 0], [4.0, 0, 0], [4.0, 0, 2.0]])
    store = LatentIndex.of(points.double())
    assert store.radius == pytest.approx(2.0)  # of 1, 1, 3, 2 and 2
    step = at(*[points[:1, None].double() + 0.5] * 2)
    assert Repellency(store, 2.0)(step).delta is not None


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"radius": 0.0}, "radius"), ({"radius": float("nan")}, "radius"), ({"k": 0}, "neighbours")],
)
def test_settings_out_of_range_are_refused(settings, says):
    with pytest.raises(BadSetting, match=says):
        Repellency(STORE, **settings)


def test_an_index_without_latents_is_refused_with_the_fix():
    with pytest.raises(IndexMismatch, match="anechoic index latents"):
        Repellency(TrainingIndex.from_embeddings(torch.eye(3)))


def test_latents_of_another_size_and_estimates_that_are_not_finite_are_refused():
    other = drawn(1, 3, 5)
    with pytest.raises(IndexMismatch, match="reduce to 15"):
        Repellency(STORE)(at(other, other))
    broken = LATENTS.clone()
    broken[0, 0, 0] = torch.inf
    with pytest.raises(GuardError, match="not finite"):
        Repellency(STORE)(at(broken, LATENTS))


def test_it_says_when_it_could_not_have_acted():
    notes = {"latent_distance": torch.tensor([3.0])}
    record = Record(0.0, NoiseLevel.from_ratio(1.0), torch.ones(1), torch.ones(1), notes=notes)
    method = Repellency(STORE)
    assert "does not depend" in (method.idle([record] * 3) or "")
    moved = replace(record, notes={"latent_distance": torch.tensor([2.0])})
    assert method.idle([record, moved]) is None
