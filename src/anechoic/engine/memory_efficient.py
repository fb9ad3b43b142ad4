"""Decoders that keep less for the gradient with respect to what they decode.

No weight wants a gradient inside a guard. A convolution then needs its input no more, and a Snake
activation needs nothing but it, where autograd keeps the sine and its argument. Together they keep
two fifths, and the gradient takes less time. What is decoded is the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv1d_input, conv2d_input

from anechoic.engine.wrapping import changed

Part = tuple[nn.Module, Callable[..., Any]]  # a module, and its forward that keeps less
_saving: ContextVar[bool] = ContextVar("anechoic_saving", default=False)

# modules that compute x + sin(alpha*x)^2 / beta: the codec's of each library
SNAKES = {
    ("diffusers.models.autoencoders.autoencoder_longcat_audio_dit", "Snake1d"),
    ("diffusers.models.autoencoders.autoencoder_oobleck", "Snake1d"),
    ("stable_audio_tools.models.blocks", "SnakeBeta"),
}
CONVOLUTIONS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: conv1d_input,
    nn.Conv2d: conv2d_input,
}


class _Convolution(torch.autograd.Function):
    """A convolution whose weights are fixed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: Any) -> Tensor:
        ctx.module, ctx.size = module, x.shape
        ctx.save_for_backward(module.weight)  # weight normalisation makes it anew at each call
        made: Tensor = type(module).forward(module, x)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (weight,), m = ctx.saved_tensors, ctx.module
        backward = CONVOLUTIONS[type(m)]
        return backward(ctx.size, weight, grad, m.stride, m.padding, m.dilation, m.groups), None


class _Snake(torch.autograd.Function):
    """x + sin(alpha*x)^2 / beta, with the slope 1 + alpha/beta * sin(2*alpha*x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: Any) -> Tensor:
        ctx.log = module.logscale if hasattr(module, "logscale") else module.alpha_logscale
        ctx.save_for_backward(x, module.alpha, module.beta)
        made: Tensor = type(module).forward(module, x)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, alpha, beta = ctx.saved_tensors
        alpha, beta = alpha.reshape(1, -1, 1), beta.reshape(1, -1, 1)
        if ctx.log:
            alpha, beta = alpha.exp(), beta.exp()
        slope = (x * (2 * alpha)).sin_().mul_(alpha / (beta + 1e-9))
        return slope.mul_(grad).add_(grad), None


@dataclass(eq=False)
class _Forward:
    """A module's forward, which keeps less in a block of `saving_memory` and only there: another
    thread may call the module meanwhile."""

    function: type[torch.autograd.Function]
    module: nn.Module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not _saving.get():
            return type(self.module).forward(self.module, *args, **kwargs)
        return self.function.apply(*args, self.module, **kwargs)


def memory_efficient(modules: Iterable[nn.Module]) -> list[Part]:
    """Those of the modules that can keep less. Left as they are: one whose weights want a gradient,
    one that something else has changed (such as accelerate, which moves weights layer by layer)."""
    return [
        (module, _Forward(function, module))
        for module in modules
        if (function := _function(module)) is not None
        and ("forward" not in vars(module) or isinstance(module.forward, _Forward))
        and not any(weight.requires_grad for weight in module.parameters(recurse=False))
    ]


@contextmanager
def saving_memory(parts: Sequence[Part]) -> Iterator[None]:
    """A block in which the modules' forwards are replaced by those that save memory."""
    forwards = dict(parts)
    token = _saving.set(True)
    try:
        with changed(
            lambda: [(module, "forward") for module in forwards],
            lambda module, name: setattr(module, name, forwards[module]),
            delattr,
        ):
            yield
    finally:
        _saving.reset(token)


def _function(module: nn.Module) -> type[torch.autograd.Function] | None:
    kind = type(module)  # itself: a subclass may do something else
    if (kind.__module__, kind.__name__) in SNAKES:
        return _Snake
    if kind in CONVOLUTIONS and getattr(module, "padding_mode", "") == "zeros":
        return None if isinstance(module.padding, str) else _Convolution
    return None
