"""SGF: the right sign, its gradient, and what it shares with Safe Denoiser."""

import math
from dataclasses import replace

import pytest
import torch
from anechoic_lab.guidance import KernelGradient, LatentBank
from anechoic_lab.guidance.kernel_gradient import kernel_gradient, own_precision
from anechoic_lab.guidance.safe_denoiser import posterior_mean
from support.amg_toy import gaussian_mixture_step
from support.pipelines import require_alone_as_together

from anechoic.errors import BadSetting

POINTS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
X = torch.tensor([[0.4, 0.1], [-0.3, -0.6]], dtype=torch.float64)
BANK = LatentBank.of(POINTS)


def similarity(points, width):
    return (BANK.squared_distances(points) / (-2 * width**2)).exp().sum(1)


def test_the_gradient_is_that_of_the_kernel():
    points = X.clone().requires_grad_(True)
    similarity(points, 0.8).sum().backward()
    total, gradient = kernel_gradient(BANK, X, BANK.squared_distances(X), 0.8**-2)
    torch.testing.assert_close(gradient, points.grad)
    torch.testing.assert_close(total, similarity(X, 0.8))


@pytest.mark.parametrize("width", [0.3, 1.0, 3.0, None])
def test_it_moves_away_from_the_clips(width):
    """A small step lowers the similarity to the clips, and so raises the discrepancy."""
    step = replace(gaussian_mixture_step(POINTS, X, 1.0), cond=X, uncond=X)
    guided = KernelGradient(POINTS, strength=1e-3, width=width)(step)
    precision = own_precision(BANK.squared_distances(X)) if width is None else width**-2

    def kernel(points):
        return (BANK.squared_distances(points) * precision / -2).exp().sum(1)

    assert (kernel(guided.x0(step)) < kernel(X)).all()
    torch.testing.assert_close(guided.notes["kernel"], kernel(X))


def test_safe_denoiser_is_a_case_of_it():
    """At x / alpha, with the width sigma / alpha and over the kernel's sum, the gradient leads to
    the posterior mean over the clips."""
    step = gaussian_mixture_step(POINTS, X, 0.7)
    at, width = step.x / step.noise.alpha, step.noise.ratio
    total, gradient = kernel_gradient(BANK, at, BANK.squared_distances(at), width**-2)
    unsafe = at + width**2 * gradient / total[:, None]
    torch.testing.assert_close(unsafe, posterior_mean(BANK, step))


def test_the_width_of_its_own_is_where_the_released_code_has_it():
    bank = LatentBank.of(torch.arange(1.0, 11.0)[:, None])
    distances = bank.squared_distances(torch.zeros(1, 1))
    mean = (4**2 + 5**2 + 6**2) / 3
    width = own_precision(distances).rsqrt().item()
    assert math.exp(-mean / (2 * width**2)) == pytest.approx(0.05)
    assert own_precision(distances[:, :2]).item() == pytest.approx(-2 * math.log(0.05) / 4)


def test_a_sample_of_a_batch_is_what_it_is_alone(pipe, generate):
    clips = torch.randn(8, 3, 16, generator=torch.Generator().manual_seed(0))
    method = KernelGradient(clips, strength=5.0)
    require_alone_as_together(method, pipe, generate)


@pytest.mark.parametrize(
    ("given", "says"),
    [({"strength": 0.0}, "strength above 0"), ({"width": -1.0}, "width above 0")],
)
def test_a_setting_out_of_range_is_refused(given, says):
    with pytest.raises(BadSetting, match=says):
        KernelGradient(POINTS, **given)
