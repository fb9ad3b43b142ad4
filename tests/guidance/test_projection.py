"""Projection: the smallest step that meets the constraint, remembered to the end of the run."""

from dataclasses import replace

import pytest
import torch
from support.amg_toy import REFERENCE, Identity, Toy, gaussian_mixture_step, run

from anechoic.errors import BadSetting
from anechoic.guidance import ClassifierFree, LogSNR, Projection
from anechoic.guidance.noise import NoiseLevel
from anechoic.guidance.projection import HELD, Constraint
from anechoic.guidance.similarity import read_off
from anechoic.guidance.step import Record

POINTS = torch.tensor([[2.0, 1.0], [-1.0, 2.0], [0.5, -2.0]], dtype=torch.float64)
X = torch.tensor([[0.4, 0.3], [-0.2, 0.5]], dtype=torch.float64)
XS = torch.cat([torch.tensor(case["x"], dtype=torch.float64) for case in REFERENCE["cases"][:3]])


def slopes(store, x0, target):
    """The similarity of points to a training point, and its gradient."""
    variable = x0.clone().requires_grad_(True)
    similarity = (store(variable[:, None], 1) * store.points[target]).sum(1)
    (gradient,) = torch.autograd.grad(similarity.sum(), variable)
    return similarity.detach(), gradient


def led(step, limit=0.9, **settings):
    store = Identity(POINTS)
    given = {"opens": max(limit, 0.0), "limit": limit, "longest": 1.0, "start": None, **settings}
    return Projection(store, store, 3.0, **given)(step)


class TestTheStep:
    def test_within_the_constraint_it_is_classifier_free_guidance_bit_for_bit(self):
        toy = Toy()
        step = toy.step(XS, 1.0)
        answer = Projection(toy, toy, opens=0.999, limit=0.99)(step)
        assert answer.delta is None
        assert torch.equal(answer.x0(step), ClassifierFree(7.0)(step).x0(step))

    def test_it_meets_the_linearised_constraint(self):
        store, step = Identity(POINTS), gaussian_mixture_step(POINTS, X, sigma=1.3)
        answer = led(step)
        target = answer.notes["neighbour"]
        similarity, gradient = slopes(store, step.cond, target)
        assert (similarity > 0.9).all()
        reached = similarity + (gradient * answer.delta).sum(1)
        torch.testing.assert_close(reached, torch.full_like(reached, 0.9), atol=1e-6, rtol=0)

    def test_for_one_clip_it_is_polyaks_step(self):
        store, step = Identity(POINTS), gaussian_mixture_step(POINTS, X, sigma=1.3)
        answer = led(step)
        similarity, gradient = slopes(store, step.cond, answer.notes["neighbour"])
        share = (similarity - 0.9) / gradient.square().sum(1)
        torch.testing.assert_close(answer.delta, -share[:, None] * gradient)

    def test_several_embedders_are_constraints_of_their_own(self):
        points = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).double()
        stores = [Identity(points), Identity(points.roll(1, 1))]
        step = gaussian_mixture_step(points, points[:2], sigma=1.3)
        step = replace(step, cond=points[:2] + points.roll(1, 1)[1:3] + points[2:])
        nearest = [store.search(store(step.cond[:, None], 1)) for store in stores]
        limits = [near.scores[:, 0].min().item() - 0.05 for near in nearest]
        one, other = (
            Constraint(store, store, opens=limit, limit=limit)
            for store, limit in zip(stores, limits, strict=True)
        )
        method = Projection(
            one.index, one.index, 3.0, one.opens, one.limit, (other,), start=None, longest=1.0
        )
        step = replace(step, uncond=step.cond)
        delta = method(step).delta
        for store, near, limit in zip(stores, nearest, limits, strict=True):
            similarity, gradient = slopes(store, step.cond, near.rows[:, 0])
            assert (similarity + (gradient * delta).sum(1) < limit + 1e-6).all()

    def test_it_is_no_longer_than_it_may_be(self):
        step = gaussian_mixture_step(POINTS, X, sigma=1.3)
        answer = led(step, limit=0.5, longest=0.1)
        lengths = answer.delta.norm(dim=1) / step.cond.norm(dim=1)
        torch.testing.assert_close(lengths, torch.full_like(lengths, 0.1))

    def test_at_an_exact_copy_it_goes_back_towards_the_unconditional_estimate(self):
        step = gaussian_mixture_step(POINTS, X, sigma=1.3)
        step = replace(step, cond=POINTS[:2].clone(), uncond=torch.zeros_like(X))
        answer = Projection(
            _Flat(POINTS), _Flat(POINTS), 1.5, opens=0.5, limit=0.4, start=None, longest=0.3
        )(step)
        guided = 1.5 * POINTS[:2]
        torch.testing.assert_close(answer.delta, -0.3 * guided)


class _Flat(Identity):
    """An embedder whose gradient vanishes, as that of a cosine does at an exact copy."""

    def __call__(self, wav, sample_rate):
        emb = super().__call__(wav, sample_rate)
        return emb.detach() + 0.0 * wav[:, 0]


class TestTheRun:
    def test_the_step_is_remembered_and_only_comparisons_make_it_longer(self):
        step = gaussian_mixture_step(POINTS, X, sigma=1.3)
        first = led(step)
        record = Record(0.0, step.noise, step.distance, first.scales(2), notes=first.notes)
        after = replace(step, history=(record,), memory=first.memory)
        assert torch.equal(led(after).delta, first.delta)  # too soon to compare
        later = gaussian_mixture_step(POINTS, X, sigma=0.4)
        second = led(replace(later, history=(record,), memory=first.memory))
        assert (second.delta.norm(dim=1) > first.delta.norm(dim=1)).all()
        assert torch.equal(second.memory[HELD], second.delta)

    def test_a_sample_stays_led_once_it_came_too_near(self):
        step = gaussian_mixture_step(POINTS, X, sigma=1.3)
        notes = {"similarity": torch.tensor([0.9, 0.1]), "gate": torch.tensor([True, False])}
        record = Record(0.0, NoiseLevel.from_ratio(9.0), step.distance, torch.ones(2), notes=notes)
        answer = led(replace(step, history=(record,)), opens=0.9999)
        assert answer.notes["gate"].tolist() == [True, False]
        assert (answer.delta.norm(dim=1) > 0).tolist() == [True, False]

    def test_comparisons_are_spaced_by_noise_level_whatever_the_number_of_steps(self):
        toy, counts = Toy(), []
        for steps in (30, 300):
            ratios = torch.logspace(1, -1, steps).tolist()
            method = Projection(toy, toy, opens=-0.9, limit=-0.95, start=None, spacing=1.2)
            history = run(method, toy, XS, ratios)[1]
            counts.append(sum(not record.notes["similarity"].isnan().any() for record in history))
        assert counts == [8, 8]  # over 9.2 of log-SNR

    def test_before_its_start_it_watches_and_leads_nobody(self):
        toy = Toy()
        step = toy.step(XS * 500, 500.0)
        answer = Projection(toy, toy, opens=-0.9, limit=-0.95, start=LogSNR(-6.0))(step)
        assert answer.delta is None
        assert answer.notes["gate"].all()

    @pytest.mark.parametrize("scale", [1.5, 7.0])
    def test_a_model_that_memorizes_three_points_returns_none_of_them(self, scale):
        """The exact posterior mean, sampled by DDIM: unguarded, it ends on a training point."""
        store = Identity(POINTS)
        ratios = torch.logspace(1.5, -1.5, 60, dtype=torch.float64).tolist()

        def sample(method):
            x = torch.tensor([[30.0, -11.0], [-17.0, 25.0], [9.0, 31.0]], dtype=torch.float64)
            history, memory = (), {}
            for ratio, after in zip(ratios, [*ratios[1:], 0.0], strict=True):
                noise = NoiseLevel.from_ratio(ratio)
                step = gaussian_mixture_step(POINTS, x * noise.alpha, ratio)
                step = replace(step, history=history, memory=memory)
                answer = method(step)
                x0, memory = answer.x0(step), answer.memory
                history += (Record(0.0, noise, step.distance, torch.ones(3), notes=answer.notes),)
                x = x0 + after / ratio * (x - x0)
            return store.search(store(x[:, None], 1)).scores[:, 0]

        assert (sample(ClassifierFree(scale)) > 0.99).all()
        kept_away = sample(
            Projection(store, store, scale, opens=0.8, limit=0.6, spacing=0.1, longest=1.0)
        )
        assert (kept_away < 0.8).all()


class TestItsLimits:
    def test_they_are_read_off_the_index(self):
        toy = Toy()
        method = Projection(toy, toy)
        assert [method.limit, method.opens] == pytest.approx(read_off(toy, 0.25, 0.9))

    def test_a_lower_threshold_is_a_stronger_guard(self):
        toy = Toy()
        method = Projection(toy, toy, opens=0.9, limit=0.7).with_threshold(0.6)
        assert (method.opens, method.limit) == (0.6, 0.6)

    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            ({"opens": 0.5, "limit": 0.6}, "limit <= opens"),
            ({"opens": 1.0, "limit": 0.6}, "opens < 1"),
            ({"longest": 0.0}, "longest"),
            ({"neighbours": 0}, "neighbours"),
            ({"spacing": -1.0}, "spacing"),
            ({"watch": float("nan")}, "watch"),
        ],
    )
    def test_impossible_settings_are_refused(self, settings, says):
        toy = Toy()
        with pytest.raises(BadSetting, match=says):
            Projection(toy, toy, **settings)

    def test_a_run_in_which_nothing_was_compared_is_told(self):
        toy = Toy()
        method = Projection(toy, toy, opens=0.9, limit=0.5)
        history = run(method, toy, XS)[1]
        bare = [replace(record, notes={}) for record in history]
        assert method.idle(history) is None
        assert "compared no estimate" in method.idle(bare)
