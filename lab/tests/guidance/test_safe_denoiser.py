"""Safe Denoiser: the paper's identities on a model that knows three points."""

import pytest
import torch
from anechoic_lab.guidance import LatentBank, SafeDenoiser
from anechoic_lab.guidance.safe_denoiser import posterior_mean
from support.amg_toy import gaussian_mixture_step
from support.pipelines import require_alone_as_together

from anechoic import guard
from anechoic.errors import BadSetting, GuardError
from anechoic.guidance import ClassifierFree, During

POINTS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
X = torch.tensor([[0.4, 0.1], [-0.3, -0.6]], dtype=torch.float64)


def latents(seed=0):
    """Four clips with the shape of the tiny pipeline's latents."""
    return torch.randn(4, 3, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("ratio", [500.0, 14.6, 1.0, 0.3, 0.01])
def test_the_posterior_mean_is_that_of_a_model_of_these_points(ratio):
    step = gaussian_mixture_step(POINTS, X, ratio)
    torch.testing.assert_close(posterior_mean(LatentBank.of(POINTS), step), step.cond)


def test_a_model_of_the_clips_alone_is_where_the_step_vanishes():
    step = gaussian_mixture_step(POINTS, X, 0.7)
    delta = SafeDenoiser(POINTS, beta=5.0)(step).delta
    torch.testing.assert_close(delta, torch.zeros_like(X), atol=1e-12, rtol=0)


def test_the_estimate_moves_by_beta_times_its_difference_from_the_unsafe_one():
    others = POINTS.flip(1) + 0.5
    step = gaussian_mixture_step(POINTS, X, 0.7)
    guided = SafeDenoiser(others, scale=3.0, beta=0.25)(step)
    unsafe = gaussian_mixture_step(others, X, 0.7).cond
    torch.testing.assert_close(guided.x0(step), step.cond + 0.25 * (step.cond - unsafe))


def test_without_strength_it_is_plain_guidance_bit_for_bit(pipe, generate):
    with guard(pipe, ClassifierFree(7.0)):
        plain = generate(pipe)
    off = During(SafeDenoiser(latents(), beta=1.0), 0.5, 0.51, outside=ClassifierFree(7.0))
    step = gaussian_mixture_step(POINTS, X, 0.7)
    assert SafeDenoiser(POINTS, beta=0.0)(step).delta is None
    with (
        pytest.raises(GuardError, match="its beta is 0"),
        guard(pipe, SafeDenoiser(latents(), beta=0.0)),
    ):
        made = generate(pipe)
    assert torch.equal(made, plain)
    with guard(pipe, off):
        assert not torch.equal(generate(pipe), plain)  # one step of it is enough to see


def test_a_sample_of_a_batch_is_what_it_is_alone(pipe, generate):
    method = SafeDenoiser(latents(), beta=0.5)
    require_alone_as_together(method, pipe, generate)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"beta": -1.0}, "beta of 0 or more"),
        ({"latents": torch.zeros(0, 2)}, "one clip or more"),
        ({"latents": torch.full((1, 2), torch.nan)}, "finite latents"),
        ({"latents": [1.0]}, "a tensor"),
    ],
)
def test_a_setting_out_of_range_is_refused(given, says):
    with pytest.raises(BadSetting, match=says):
        SafeDenoiser(**{"latents": POINTS, **given})


def test_latents_of_another_length_are_refused(pipe, generate):
    short = SafeDenoiser(latents()[..., :8])
    with pytest.raises(GuardError, match="at the length that is generated"), guard(pipe, short):
        generate(pipe)


def test_a_bank_is_computed_once_and_when_it_is_used():
    calls = []
    bank = LatentBank(lambda: calls.append(1) or POINTS)
    method = SafeDenoiser(bank)
    assert not calls
    for _ in range(2):
        method(gaussian_mixture_step(POINTS, X, 0.7))
    assert calls == [1]
