"""What every guidance keeps, and what this one adds."""

import torch
from halved_early import HalvedEarly

from anechoic.testing import Points, check_guidance


def test_it_keeps_what_every_guidance_keeps():
    check_guidance(lambda index, embedder: HalvedEarly())


def test_the_guidance_is_halved_while_the_sample_is_mostly_noise():
    model = Points()
    x = torch.zeros(1, 1, 2, dtype=torch.float64)
    noisy, clean = (model.step(x, ratio, [model.captions[0]]) for ratio in (100.0, 0.1))
    assert HalvedEarly(6.0)(noisy).scale == 3.0
    assert HalvedEarly(6.0)(clean).scale == 6.0
