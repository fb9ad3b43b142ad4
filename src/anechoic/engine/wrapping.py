"""What a guard puts around a model's methods and network, and how it comes off again."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import nn

from anechoic.errors import GuardError


@dataclass
class Block:
    """The `with` block of a guard; all copies of a pipeline share it."""

    ended: bool = False

    def __deepcopy__(self, memo: Any) -> Block:
        return self


class Method:
    """Stands in for a method of an object. A deep copy of the object has its own method."""

    def __init__(self, owner: Any, name: str, call: Callable[..., Any]):
        self.owner, self.name, self.call = owner, name, call
        self.original = getattr(owner, name)
        self._set_before = name in vars(owner)
        functools.update_wrapper(self, self.original)  # pipelines look at signatures
        setattr(owner, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)

    def __deepcopy__(self, memo: Any) -> Any:
        return deepcopy(self.original, memo)  # bound to the copy, which `memo` holds

    def undo(self) -> None:
        """Give the object its method back."""
        if self._set_before:
            setattr(self.owner, self.name, self.original)
        else:
            delattr(self.owner, self.name)  # the class's own shows again


class Hook:
    """A forward hook of a guarded module. In a deep copy of the module it guards nothing, so there
    it refuses until the block ends, and does nothing afterwards."""

    def __init__(self, block: Block, call: Callable[..., Any]):
        self.block, self.call = block, call

    def __call__(self, *call: Any) -> Any:
        return self.call(*call)

    def __deepcopy__(self, memo: Any) -> Hook:
        block = self.block

        def refuse(*call: Any) -> None:
            if not block.ended:
                raise GuardError(
                    "a copy of a guarded pipeline was called inside the guard's block, and the "
                    "guard does not reach it; call the pipeline itself, or copy it before the block"
                )

        return Hook(block, refuse)


@contextmanager
def frozen(modules: Iterable[nn.Module]) -> Iterator[None]:
    """A block in which none of these modules' own weights wants a gradient: a gradient through a
    decoder keeps two thirds more of its inner values where its weights might want one, too."""
    found = [
        (module, name)
        for module in modules
        for name, weight in module.named_parameters(recurse=False)
        if weight.requires_grad
    ]
    for module, name in found:
        getattr(module, name).requires_grad_(False)
    try:
        yield
    finally:
        for module, name in found:  # by name: offloading puts other tensors in their place
            getattr(module, name).requires_grad_(True)


def on_stack(wanted: FrameType) -> bool:
    """Whether the code that asks was called, by way of others, from this frame."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame is not wanted:
        frame = frame.f_back
    return frame is not None


def call_of(pipe: Any) -> FrameType | None:
    """The innermost call of a pipeline that runs in this thread; None: it was not called."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "__call__" and frame.f_locals.get("self") is pipe:
            return frame
        frame = frame.f_back
    return None


def is_running(wanted: FrameType) -> bool:
    """Whether any thread is inside this frame."""
    for top in sys._current_frames().values():
        frame: FrameType | None = top
        while frame is not None:
            if frame is wanted:
                return True
            frame = frame.f_back
    return False


def refuse_rest(network: nn.Module, frame: FrameType) -> GuardError:
    """Have the network refuse what is left of a generation that outlives its guard.

    Args:
        network: the pipeline's network.
        frame: the call of the pipeline, which is still running.

    Returns:
        The error that says so.
    """
    error = (
        "the guard's block ended while a generation was still running, and what is left of it "
        "would not be guarded; wait for it inside the block, such as with thread.join()"
    )

    def refuse(*call: Any) -> None:
        if on_stack(frame):
            raise GuardError(error)
        if not is_running(frame):
            for handle in handles:
                handle.remove()

    handles = [
        network.register_forward_pre_hook(refuse),
        network.register_forward_hook(refuse),  # an evaluation that is under way
    ]
    return GuardError(error)
