"""A gradient through a decoder that keeps less on the way."""

import pytest
import torch
from support.pipelines import make_longcat, make_pipe, make_stable_diffusion
from torch import nn

from anechoic import guard
from anechoic.engine.memory_efficient import memory_efficient, saving_memory

CODECS = {  # who makes it, what it decodes [b, *latent], and the most that it may keep
    "Oobleck": (make_pipe, (2, 3, 24), 0.45),
    "LongCat": (make_longcat, (2, 4, 24), 0.45),
    "images": (make_stable_diffusion, (2, 4, 8, 8), 0.65),
}


def codec(name):
    vae = CODECS[name][0]().vae
    torch.manual_seed(0)
    for part in vae.modules():
        if type(part).__name__ == "Snake1d":  # slopes of many sizes
            nn.init.normal_(part.alpha, std=0.5)
            nn.init.normal_(part.beta, std=0.5)
    return vae.requires_grad_(False)


def gradient(vae, x0):
    """What is decoded, the gradient of its energy, and how many bytes are kept for it."""
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x0 = x0.clone().requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        sound = vae.decode(x0).sample
    (slope,) = torch.autograd.grad(sound.square().sum(), x0)
    weights = {weight.untyped_storage().data_ptr() for weight in vae.parameters()}
    return sound, slope, sum(size for place, size in kept.items() if place not in weights)


@pytest.mark.parametrize("name", CODECS)
def test_the_same_is_decoded_and_the_gradient_is_the_same_to_rounding(name):
    _, shape, most = CODECS[name]
    vae, x0 = codec(name), torch.randn(shape, generator=torch.manual_seed(1))
    sound, slope, kept = gradient(vae, x0)
    with saving_memory(memory_efficient(vae.modules())):
        again, lean_slope, less = gradient(vae, x0)
    assert torch.equal(again, sound)
    assert (lean_slope - slope).norm() < 1e-5 * slope.norm()
    assert less < most * kept


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d])
@pytest.mark.parametrize("form", [{}, {"stride": 2}, {"dilation": 3, "padding": 3}, {"groups": 2}])
def test_a_convolution_gives_the_gradient_of_autograd_bit_for_bit(kind, form):
    torch.manual_seed(0)
    convolution = kind(4, 6, 3, **form).requires_grad_(False)
    x = torch.randn(2, 4, *([17] * (1 if kind is nn.Conv1d else 2)), requires_grad=True)
    (expected,) = torch.autograd.grad(convolution(x).sin().sum(), x)
    with saving_memory(memory_efficient([convolution])):
        (found,) = torch.autograd.grad(convolution(x).sin().sum(), x)
    assert torch.equal(found, expected)


def test_the_modules_are_as_before_also_after_an_error():
    vae = codec("Oobleck")
    with pytest.raises(ZeroDivisionError), saving_memory(memory_efficient(vae.modules())):
        raise ZeroDivisionError
    assert not any("forward" in vars(module) for module in vae.modules())


def test_what_is_not_known_is_left_alone():
    class Other(nn.Conv1d):
        """It may do anything."""

    offloaded = nn.Conv1d(1, 1, 1).requires_grad_(False)
    offloaded.forward = offloaded.forward  # as accelerate puts its own there
    modules = [
        Other(1, 1, 1).requires_grad_(False),
        offloaded,
        nn.Conv1d(1, 1, 1),  # its weights want a gradient
        nn.Conv1d(1, 1, 3, padding="same").requires_grad_(False),
        nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular").requires_grad_(False),
        nn.Linear(1, 1).requires_grad_(False),
    ]
    assert memory_efficient(modules) == []


@pytest.mark.parametrize("casts", [False, True])
def test_a_guard_decodes_so_for_a_gradient_and_under_autocast_as_ever(pipe, generate, casts):
    lean_ones = []

    def watch(step):
        with torch.enable_grad():
            step.decode(step.cond.clone().requires_grad_(True))
        return step.cond

    def note(module, args):
        lean_ones.append("forward" in vars(module))

    convolution = next(part for part in pipe.vae.decoder.modules() if type(part) is nn.Conv1d)
    handle = convolution.register_forward_pre_hook(note)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=casts), guard(pipe, watch):
        generate(pipe, steps=2)
    handle.remove()
    assert any(lean_ones) is not casts
    assert "forward" not in vars(convolution)
