"""What a guard puts around a model's methods and network, and how it comes off again."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, field
from threading import RLock
from types import FrameType
from typing import Any

from torch import nn

from anechoic.errors import GuardError

_entered: ContextVar[tuple[Block, ...]] = ContextVar("anechoic_entered", default=())
_open: list[Block] = []  # of all threads
_changed: Counter[tuple[nn.Module, str]] = Counter()  # how many blocks want each change
_lock = RLock()  # over both, and over what several guards put around one module


@dataclass(eq=False)
class Block:
    """The `with` block of a guard.

    It reaches the thread or asyncio task that enters it, and what runs in a copy of its context,
    as `asyncio.to_thread` does. Other threads run beside it: where they share the network, the
    guard leaves their calls as they are. All copies of a pipeline share its block.

    Args:
        owner: what serves one guard at a time, such as a pipeline.
        network: what is guarded; several owners may share it.
    """

    owner: object = field(default_factory=object)
    network: object = field(default_factory=object)
    ended: bool = False

    def __enter__(self) -> Block:
        """Raises:
        GuardError: inside a block around the same network, or beside one of the same owner.
        """
        with _lock:
            if any(block.network is self.network for block in _entered.get()):
                raise GuardError(
                    "this model is guarded already, and a guard inside a guard would undo it; "
                    "leave the outer 'with guard(...)' block first, or compose the two methods "
                    "into one"
                )
            if any(block.owner is self.owner for block in _open):
                raise GuardError(
                    "this model is guarded already, in another thread or task, and serves one "
                    "guard at a time; wait until that block ends, or give each thread a pipeline "
                    "of its own with PipelinePool"
                )
            _open.append(self)
        _entered.set((*_entered.get(), self))
        return self

    def __exit__(self, *error: object) -> None:
        self.ended = True
        with _lock:
            _open.remove(self)
        _entered.set(tuple(block for block in _entered.get() if not block.ended))

    def entered(self) -> bool:
        """Whether the code that asks is reached by this block."""
        return self in _entered.get()

    def __deepcopy__(self, memo: Any) -> Block:
        return self


class Method:
    """Stands in for a method of an object. A deep copy of the object has its own method."""

    def __init__(self, owner: Any, name: str, call: Callable[..., Any]):
        self.owner, self.name, self.call = owner, name, call
        self.original = getattr(owner, name)
        self._set_before = name in vars(owner)
        functools.update_wrapper(self, self.original, updated=())  # pipelines look at signatures
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
    it refuses until the block ends.

    Args:
        block: where it acts.
        call: the hook itself.
        beside: called before any other evaluation of the module.
    """

    def __init__(
        self,
        block: Block,
        call: Callable[..., Any],
        beside: Callable[[], None] = lambda: None,
    ):
        self.block, self.call, self.beside = block, call, beside

    def __call__(self, *call: Any) -> Any:
        return self.call(*call) if self.block.entered() else self.beside()

    def __deepcopy__(self, memo: Any) -> CopiedHook:
        return CopiedHook(self.block)


@dataclass
class CopiedHook:
    """A guard's hook, in a deep copy of its module."""

    block: Block

    def __call__(self, *call: Any) -> None:
        if not self.block.ended:
            raise GuardError(
                "a copy of a guarded pipeline was called inside the guard's block, and the guard "
                "does not reach it; call the pipeline itself, or copy it before the block"
            )


class CompiledCall:
    """Stands in for the compiled call of a network, for hooks would be compiled into it."""

    def __init__(self, network: nn.Module, compiled: Callable[..., Any]):
        self.network, self.compiled = network, compiled
        self.around: tuple[tuple[Hook, Hook | None], ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        around = self.around
        for before, _ in around:
            args, kwargs = before(self.network, args, kwargs) or (args, kwargs)
        output = self.compiled(*args, **kwargs)
        for _, after in around:
            changed = None if after is None else after(self.network, args, kwargs, output)
            output = output if changed is None else changed
        return output


def surround(network: nn.Module, before: Hook, after: Hook | None = None) -> Callable[[], None]:
    """Call hooks before and after each evaluation of a network, compiled in place or not.

    Args:
        network: the network.
        before: called with it, and the positional and named arguments.
        after: called with these and the output.

    Returns:
        A function that takes the hooks off again.
    """
    compiled = compiled_call(network)
    if compiled is not None:
        return _surround_compiled(network, compiled, before, after)
    handles = [network.register_forward_pre_hook(before, with_kwargs=True)]
    if after is not None:
        handles.append(network.register_forward_hook(after, with_kwargs=True))

    def undo() -> None:
        for handle in handles:
            handle.remove()

    return undo


def _surround_compiled(
    network: nn.Module, compiled: Callable[..., Any], before: Hook, after: Hook | None
) -> Callable[[], None]:
    pair = before, after
    with _lock:
        call = network._compiled_call_impl
        if not isinstance(call, CompiledCall):
            call = network._compiled_call_impl = CompiledCall(network, compiled)
        call.around = (*call.around, pair)

    def undo() -> None:
        with _lock:
            call.around = tuple(one for one in call.around if one is not pair)
            if not call.around:
                network._compiled_call_impl = compiled

    return undo


def compiled_call(network: nn.Module) -> Callable[..., Any] | None:
    """The call of a network that was compiled in place, without what guards put around it."""
    call = network._compiled_call_impl
    return call.compiled if isinstance(call, CompiledCall) else call


@contextmanager
def changed(
    names: Callable[[], Sequence[tuple[nn.Module, str]]],
    change: Callable[[nn.Module, str], None],
    undo: Callable[[nn.Module, str], None],
) -> Iterator[None]:
    """A block in which attributes of modules are changed. Blocks of several threads may want the
    same change: the first makes it, and the last undoes it.

    Args:
        names: which modules, and which attribute of each. No other thread changes any meanwhile.
        change: makes the change.
        undo: undoes it.
    """
    with _lock:
        found = names()
        for key in found:
            if not _changed[key]:
                change(*key)
            _changed[key] += 1
    try:
        yield
    finally:
        with _lock:
            for key in found:
                _changed[key] -= 1
                if not _changed[key]:
                    del _changed[key]
                    undo(*key)


def frozen(modules: Iterable[nn.Module]) -> AbstractContextManager[None]:
    """A block in which none of these modules' own weights wants a gradient: a gradient through a
    decoder keeps two thirds more of its inner values where its weights might want one, too."""
    return changed(
        lambda: [
            (module, name)
            for module in modules
            for name, weight in module.named_parameters(recurse=False)
            if weight.requires_grad or (module, name) in _changed
        ],
        # by name: offloading puts other tensors in their place
        lambda module, name: getattr(module, name).requires_grad_(False),
        lambda module, name: getattr(module, name).requires_grad_(True),
    )


def on_stack(wanted: FrameType) -> bool:
    """Whether the code that asks was called, by way of others, from this frame."""
    return any(frame is wanted for frame in callers(sys._getframe(1)))


def call_of(pipe: Any) -> FrameType | None:
    """The innermost call of a pipeline that runs in this thread; None: it was not called."""
    for frame in callers(sys._getframe(1)):
        if frame.f_code.co_name == "__call__" and frame.f_locals.get("self") is pipe:
            return frame
    return None


def is_running(frame: FrameType | None) -> bool:
    """Whether any thread is inside this frame. One that is done loses its local variables.

    Python crashes where a thread looks through the frames of another that runs, so it is asked for
    what it refuses to do with a frame that runs.
    """
    if frame is None:
        return False
    try:
        frame.clear()
    except RuntimeError:
        return True
    return False


def callers(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and those that called it, by way of others."""
    while frame is not None:
        yield frame
        frame = frame.f_back


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
