"""Gram-volume guidance: a volume is a volume, and its gradient leaves the neighbours' plane."""

import pytest
import torch
from support.amg_toy import REFERENCE, Identity, Toy, gaussian_mixture_step

from anechoic.errors import BadSetting
from anechoic.guidance import AntiMemorization, GramVolume
from anechoic.guidance.step import Guided
from anechoic.guidance.volume import log_volume


def unit(*shape, seed=0):
    raw = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(raw, dim=-1)


def test_volume_is_the_distance_to_the_span_times_the_neighbours_own_volume():
    emb, others = unit(5, 8), unit(5, 3, 8, seed=1)
    own = 0.5 * torch.logdet(others @ others.mT)
    basis = torch.linalg.qr(others.mT).Q
    distance = (emb - (basis @ (basis.mT @ emb[..., None]))[..., 0]).norm(dim=1)
    torch.testing.assert_close(log_volume(emb, others, ridge=0.0), own + distance.log())


def test_volume_is_that_of_a_parallelepiped():
    vectors = unit(1, 3, 3, seed=2)
    expected = torch.linalg.det(vectors[0]).abs().log()
    measured = log_volume(vectors[:, 0], vectors[:, 1:], ridge=0.0)
    torch.testing.assert_close(measured[0], expected)


def test_volume_does_not_change_with_the_order_of_neighbours_or_a_rotation():
    emb, others = unit(2, 6), unit(2, 4, 6, seed=1)
    rotation = torch.linalg.qr(unit(6, 6, seed=3)).Q
    same = log_volume(emb, others)
    torch.testing.assert_close(log_volume(emb, others.flip(1)), same)
    torch.testing.assert_close(log_volume(emb @ rotation, others @ rotation), same)


def test_an_exact_copy_still_has_a_volume():
    emb = unit(1, 6)
    assert torch.isfinite(log_volume(emb, emb[:, None].expand(1, 3, 6))).all()


def test_with_one_neighbour_it_points_where_dissimilarity_does():
    """log volume = 1/2 log(1 - sim^2), so its gradient is -sim/(1 - sim^2) * grad sim."""
    points = torch.tensor([[2.0, 1.0], [-1.0, 2.0], [0.5, -2.0]], dtype=torch.float64)
    store = Identity(points)
    x = torch.tensor([[0.4, 0.3], [-0.2, 0.5]], dtype=torch.float64)
    step = gaussian_mixture_step(points, x, sigma=1.3)
    volume = GramVolume(store, store, 3.0, strength=1.0, k=1, threshold=-1.0)(step)
    amg = AntiMemorization(store, store, 3.0, 0, 0, 1.0, lambda_min=-1, lambda_max=-1)(step)
    sim = amg.notes["similarity"][:, None]
    expected = amg.delta * sim / ((1 + 1e-4) ** 2 - sim**2)  # with the ridge
    torch.testing.assert_close(volume.delta, expected)


def test_a_step_along_it_raises_the_volume():
    toy = Toy()
    x = torch.tensor(REFERENCE["cases"][0]["x"], dtype=torch.float64)
    method = GramVolume(toy, toy, 3.0, strength=1e-3, k=2, threshold=-1.0, gradient="x0")
    step = toy.step(x * 2, 1.0)
    nearest = toy.search(toy(toy.decode(step.cond), 16), 2)

    def volume(x0):
        return log_volume(toy(toy.decode(x0), 16), toy.vectors(nearest.rows))

    assert volume(step.cond + method(step).delta) > volume(step.cond)


def test_a_shut_gate_is_plain_cfg():
    toy = Toy()
    step = toy.step(torch.tensor(REFERENCE["cases"][0]["x"], dtype=torch.float64), 1.0)
    method = GramVolume(toy, toy, threshold=0.999)
    assert torch.equal(method(step).x0(step), Guided(7.0).x0(step))


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"k": 0}, "expected k"), ({"strength": -1.0}, "expected strength above 0"),
     ({"strength": 0.0}, "expected strength above 0"), ({"threshold": 2.0}, "below 1, got 2"),
     ({"threshold": 1.0}, "below 1, got 1"), ({"start": 1.0}, "start is the end")],
)  # fmt: skip
def test_a_setting_out_of_range_is_refused(settings, says):
    toy = Toy()
    with pytest.raises(BadSetting, match=says):
        GramVolume(toy, toy, **settings)
