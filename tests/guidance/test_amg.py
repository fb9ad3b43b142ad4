"""Anti-memorization guidance against its authors' code and the exact posterior mean."""

import math
from dataclasses import replace

import pytest
import torch
from support.amg_toy import REFERENCE, Identity, Toy, gaussian_mixture_step

from anechoic.errors import BadSetting, GuardError, IndexMismatch
from anechoic.guidance import AntiMemorization, ClassifierFree
from anechoic.guidance.noise import NoiseLevel
from anechoic.guidance.step import Guided, Step


def guidance(case, **changes):
    toy = Toy()
    keys = ("c1", "c2", "c3", "lambda_min", "lambda_max")
    settings = {k: case[k] for k in keys} | {"parity": "reference"} | changes
    return toy, AntiMemorization(toy, toy, case["guidance_scale"], **settings)


@pytest.mark.parametrize("case", REFERENCE["cases"], ids=range(len(REFERENCE["cases"])))
def test_reference_parity_equals_the_authors_code_to_1e_9(case):
    toy, amg = guidance(case)
    step = toy.step(torch.tensor(case["x"], dtype=torch.float64), case["sigma"])
    torch.testing.assert_close(
        step.cond, torch.tensor(case["x0_cond"], dtype=torch.float64), rtol=0, atol=1e-12
    )
    answer = amg(step)
    expected = torch.tensor(case["x0_guided"], dtype=torch.float64)
    torch.testing.assert_close(answer.x0(step), expected, rtol=0, atol=1e-9)
    assert answer.notes["neighbour"].item() == case["neighbour"]
    assert bool(answer.notes["gate"]) == case["gate_open"]
    assert answer.notes["similarity"].item() == pytest.approx(case["similarity"], abs=1e-12)
    assert answer.notes["threshold"].item() == pytest.approx(case["threshold"], abs=1e-12)


OPEN = next(c for c in REFERENCE["cases"] if c["gate_open"] and c["c1"] and c["sigma"] == 5.0)


def test_paper_parity_scales_the_reference_gradient_by_the_noise_ratio():
    """An epsilon-space term is worth -sigma/alpha in x0; the published code leaves that out."""
    toy, reference = guidance(OPEN, c1=0, c2=0)
    step = toy.step(torch.tensor(OPEN["x"], dtype=torch.float64), OPEN["sigma"])
    paper = replace(reference, parity="paper")
    # reference: c3*sigma*alpha*grad, paper: c3*sigma^2/alpha*grad
    ratio = step.noise.sigma / step.noise.alpha**2
    torch.testing.assert_close(paper(step).delta, reference(step).delta * ratio)


def test_dissimilarity_is_the_posterior_covariance_times_the_gradient_at_x0():
    """In x0 space the paper's term is -c3 * Cov(x0 | x) grad_x0 sim, for the exact denoiser."""
    points = torch.tensor([[2.0, 1.0], [-1.0, 2.0], [0.5, -2.0]], dtype=torch.float64)
    store = Identity(points)
    x = torch.tensor([[0.4, 0.3], [-0.2, 0.5]], dtype=torch.float64)
    step = gaussian_mixture_step(points, x, sigma=1.3)
    amg = AntiMemorization(store, store, 3.0, 0, 0, 2.0, lambda_min=-1, lambda_max=-1)
    delta = amg(step).delta
    noise = step.noise
    logits = -((x[:, None] - noise.alpha * points) ** 2).sum(-1) / (2 * noise.sigma**2)
    w = logits.softmax(1)
    mean = w @ points
    covariance = torch.einsum("bn,ni,nj->bij", w, points, points) - mean[:, :, None] * mean[:, None]
    leaf = mean.clone().requires_grad_(True)
    emb = store(leaf[:, None], 1)
    target = store.points[(emb @ store.points.T).argmax(1)]
    (gradient,) = torch.autograd.grad((emb * target).sum(), leaf)
    torch.testing.assert_close(delta, -2.0 * torch.einsum("bij,bj->bi", covariance, gradient))


def test_stopping_at_x0_is_exact_for_a_unit_gaussian_prior():
    """There the posterior mean is alpha*x, so the denoiser's Jacobian is alpha."""
    noise = NoiseLevel.from_ratio(0.7)
    points = torch.tensor([[1.0, 0.2], [0.1, 1.0]], dtype=torch.float64)
    store = Identity(points)
    x = torch.tensor([[0.9, 0.8]], dtype=torch.float64)
    mean = noise.alpha * x
    step = Step(
        x,
        noise,
        mean,
        mean,
        0.0,
        (),
        lambda x, c: noise.alpha * x,
        lambda x0, rows=None: x0[:, None],
        1,
    )
    full = AntiMemorization(store, store, 3.0, 0, 0, 5.0, -1, -1)
    torch.testing.assert_close(full(step).delta, replace(full, gradient="x0")(step).delta)


def test_a_shut_gate_is_plain_cfg_and_asks_for_nothing_more():
    toy, amg = guidance(OPEN, lambda_min=0.99, lambda_max=1.0)
    step = toy.step(torch.tensor(OPEN["x"], dtype=torch.float64), OPEN["sigma"])

    def forbidden(x, condition):
        raise AssertionError("the network was asked again")

    answer = amg(replace(step, denoise=forbidden))
    assert answer.delta is None
    assert torch.equal(answer.x0(step), ClassifierFree(OPEN["guidance_scale"])(step).x0(step))


def test_each_sample_of_a_batch_is_guided_by_itself():
    toy, amg = guidance(OPEN)
    xs = torch.cat([torch.tensor(c["x"], dtype=torch.float64) for c in REFERENCE["cases"][:4]])
    together = amg(toy.step(xs, 5.0))
    for i, x in enumerate(xs.split(1)):
        alone: Guided = amg(toy.step(x, 5.0))
        step = toy.step(x, 5.0)
        torch.testing.assert_close(alone.x0(step), together.x0(toy.step(xs, 5.0))[i : i + 1])


def test_a_constant_of_zero_switches_its_term_off():
    toy, none = guidance(OPEN, c1=0, c2=0, c3=1e-12)
    step = toy.step(torch.tensor(OPEN["x"], dtype=torch.float64), OPEN["sigma"])
    torch.testing.assert_close(
        none(step).x0(step), ClassifierFree(OPEN["guidance_scale"])(step).x0(step)
    )
    _, despecified = guidance(OPEN, c2=0, c3=0)
    sim = OPEN["similarity"]
    s = OPEN["guidance_scale"]
    expected = step.uncond + (s - min(OPEN["c1"] * sim, s - 1)) * (step.cond - step.uncond)
    torch.testing.assert_close(despecified(step).x0(step), expected)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"c3": -1.0}, "expected c3 of 0 or more"),
        ({"c1": 0.0, "c2": 0.0, "c3": 0.0}, "nothing would act"),
        ({"lambda_min": 1.0, "lambda_max": 1.0}, "lambda_min is 1, .* never open"),
        ({"schedule": "constant", "lambda_max": 1.0}, "lambda_max is 1, .* never open"),
        ({"start": 1.0}, "start is the end of the schedule"),
        ({"lambda_min": 0.9, "lambda_max": 0.1}, "lambda_min <= lambda_max"),
        ({"parity": "papre"}, "expected parity among"),
        ({"gradient": "none"}, "expected gradient among"),
        ({"schedule": "linear"}, "expected schedule among"),
    ],
)
def test_a_setting_out_of_range_is_refused(changes, says):
    with pytest.raises(BadSetting, match=says):
        guidance(OPEN, **changes)


def test_an_index_of_another_embedder_or_without_clips_is_refused():
    toy = Toy()
    other = Toy()
    other.name = "clap"
    with pytest.raises(IndexMismatch, match="built with 'clap'"):
        AntiMemorization(other, toy)
    empty = Toy()
    empty.embeddings = empty.embeddings[:0]
    with pytest.raises(IndexMismatch, match="empty"):
        AntiMemorization(empty, toy)


def test_sound_longer_than_the_embedder_hears_is_refused():
    toy, amg = guidance(OPEN)
    toy.seconds = 0.5
    with pytest.raises(GuardError, match="would not be protected"):
        replace(amg, embedder=toy)(toy.step(torch.tensor(OPEN["x"], dtype=torch.float64), 5.0))


def test_lambda_follows_its_schedule_between_its_ends():
    toy = Toy()

    def made(schedule):
        return AntiMemorization(toy, toy, lambda_min=0.4, lambda_max=0.8, schedule=schedule)

    assert made("parabolic").threshold(0.5) == pytest.approx(0.4 + 0.4 * 0.25)
    # the authors' a - (a - b)*exp(-0.005*t), at the noise level of t = 200
    root = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64)
    abar = float(torch.cumprod(1 - root**2, 0)[200])
    expected = 0.4 - (0.4 - 0.8) * math.exp(-0.005 * 200)
    assert made("exponential").threshold(abar) == pytest.approx(expected, rel=1e-6)
    for abar in (0.0, 0.5, 1.0):
        assert made("constant").threshold(abar) == 0.8
    for schedule in ("parabolic", "exponential"):
        assert made(schedule).threshold(0.0) == pytest.approx(0.4, abs=0.003)
        assert made(schedule).threshold(1.0) == pytest.approx(0.8)
