"""An adapter at work on one pipeline: it listens, encodes, decodes and calls the network."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from anechoic.diffusers import prompts
from anechoic.diffusers.adapters import Adapter, CallRecorder
from anechoic.diffusers.adapters.adapter import by_name
from anechoic.diffusers.cfg_batch import DenoiserInputs
from anechoic.diffusers.memory_efficient import Part, keeping_less, lean
from anechoic.errors import GuardError

Begin = Callable[[list[str] | None, bool], None]


class Connection:
    """A pipeline that can be guarded, and its row of the table."""

    def __init__(self, pipe: Any, adapter: Adapter):
        self.pipe = pipe
        self.adapter = adapter
        self.network: nn.Module = getattr(pipe, adapter.network)
        self.sample_rate: int = adapter.sound.sample_rate(pipe) if adapter.sound else 0
        self.heard = CallRecorder(pipe, {})
        self._encoded: dict[tuple[str, int], list[Tensor]] = {}
        self._handles: list[Any] = []
        self._wrapped: list[str] = []
        self._compiled: Callable[..., Any] | None = None  # the network's, by its own compile()
        self.compiled = is_compiled(self.network)
        within = getattr(self.network, "_orig_mod", self.network)  # of torch.compile
        self._parameters = tuple(inspect.signature(type(within).forward).parameters)[1:]

    # ------------------------------------------------------------------------------ listening

    def attach(self, begin: Begin) -> None:
        """Listen to the pipeline. When it starts a generation, call `begin` with its prompts, or
        None where it is given encoded ones, and whether it has an unconditional half.

        Raises:
            GuardError: while generating, one that cannot be guarded, before its first step.
        """
        names = ("check_inputs", "encode_prompt", *self.adapter.listens)
        methods = {name: getattr(self.pipe, name) for name in names}
        for name, method in methods.items():
            if isinstance(method, nn.Module):
                handle = method.register_forward_pre_hook(
                    partial(self._module_called, name), with_kwargs=True
                )
                self._handles.append(handle)
            else:
                setattr(self.pipe, name, partial(self._called, name, methods, begin))
                self._wrapped.append(name)

    def surround(
        self, pre_forward: Callable[..., Any], post_forward: Callable[..., Any] | None = None
    ) -> None:
        """Call these before and after each evaluation of the network, as forward hooks."""
        compiled = self.network._compiled_call_impl
        if compiled is None:
            add = self.network.register_forward_pre_hook
            self._handles.append(add(pre_forward, with_kwargs=True))
            if post_forward is not None:
                handle = self.network.register_forward_hook(post_forward, with_kwargs=True)
                self._handles.append(handle)
            return

        def call(*args: Any, **kwargs: Any) -> Any:  # hooks would be compiled into the network
            args, kwargs = pre_forward(self.network, args, kwargs) or (args, kwargs)
            output = compiled(*args, **kwargs)
            if post_forward is None:
                return output
            return post_forward(self.network, args, kwargs, output)

        self._compiled = compiled
        self.network._compiled_call_impl = call

    def detach(self) -> None:
        """Leave the pipeline as it was."""
        for name in self._wrapped:
            delattr(self.pipe, name)  # the class's own shows again
        for handle in self._handles:
            handle.remove()
        if self._compiled is not None:
            self.network._compiled_call_impl = self._compiled

    def _called(
        self,
        name: str,
        methods: dict[str, Callable[..., Any]],
        begin: Begin,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if name == "check_inputs":  # each pipeline's first word
            self.heard = CallRecorder(self.pipe, methods)
            self._encoded.clear()
        calls = self.heard.calls
        if name not in calls:
            calls[name] = by_name(methods[name], args, kwargs)
            if name == "encode_prompt":
                if reason := self.adapter.refusal(self.heard):
                    raise GuardError(reason)
                prompt = calls[name]["prompt"]
                texts = [prompt] if isinstance(prompt, str) else prompt
                begin(texts, self.adapter.guided(self.heard))
        return methods[name](*args, **kwargs)

    def _module_called(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.heard.calls.setdefault(name, by_name(type(module).forward, (None, *args), kwargs))

    # ------------------------------------------------------------------------------- encoding

    def encode(self, texts: Sequence[str], places: Sequence[int]) -> list[list[Tensor]]:
        """The pieces of captions, encoded as the pipeline would alone, once a generation.

        Args:
            texts: captions.
            places: of each among the prompts, whose lyrics and the like it shares.
        """
        keys = list(zip(texts, places, strict=True))
        for key in keys:
            if key not in self._encoded:
                with torch.no_grad():
                    encoded = self.adapter.encode(self.heard, [key[0]], [key[1]])
                self._encoded[key] = prompts.encoded_pieces(self.adapter, encoded)
        return [self._encoded[key] for key in keys]

    def encode_prompts(self, texts: Sequence[str], each: int) -> Tensor:
        """Texts in the prompts' place, as one tensor [b, s, d]: encoded as the pipeline does a
        batch of them."""
        rows = [row // each for row in range(len(texts))]
        with torch.no_grad():
            encoded = self.adapter.encode(self.heard, list(texts), rows)
        return prompts.pack(prompts.encoded_pieces(self.adapter, encoded))

    def words(self) -> list[str]:
        """Whole words that the pipeline's tokenizer has a token for."""
        whole = set()
        for piece in getattr(self.pipe, self.adapter.tokenizer).get_vocab():
            if piece.startswith(("\u2581", "\u0120")):  # marks of a word's start
                whole.add(piece[1:])
            elif piece.endswith("</w>"):
                whole.add(piece[:-4])
        return sorted(word for word in whole if word.isalpha())

    def decode(self, x0: Tensor) -> Tensor:
        """Latents to sound [b, c, t], cut to the requested seconds, or images [b, 3, h, w]."""
        wants_gradient = torch.is_grad_enabled() and x0.requires_grad
        casts = torch.is_autocast_enabled(x0.device.type)  # then a gradient is cast, too
        with _in_place(self.pipe), keeping_less(self._lean if wants_gradient and not casts else ()):
            return self.adapter.decode(self.heard, x0)

    @cached_property
    def _lean(self) -> list[Part]:
        """Modules that can keep less for a gradient; of them the decoder's are called."""
        return lean(changeable(self.pipe))

    # ---------------------------------------------------------------------------- the network

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> DenoiserInputs:
        """The arguments of a call of the network by name."""
        return dict(zip(self._parameters, args, strict=False), **kwargs)

    def predict(self, half: DenoiserInputs) -> Tensor:
        """The network's prediction. `forward` as a method bypasses hooks, the guard's too."""
        forward = self._compiled or self.network.forward
        return self.kept(forward(**half)[0])

    def kept(self, prediction: Tensor) -> Tensor:
        """A prediction that stays: CUDA graphs write the next one over it."""
        return prediction.clone() if self.compiled else prediction


def is_compiled(part: nn.Module) -> bool:
    """Whether it was compiled, wrapped by torch.compile or in place."""
    return hasattr(part, "_orig_mod") or part._compiled_call_impl is not None


def changeable(pipe: Any) -> Iterator[nn.Module]:
    """The modules of a pipeline that may be set otherwise for a while: a part that was compiled
    would be compiled anew."""
    for part in pipe.components.values():
        if isinstance(part, nn.Module) and not is_compiled(part):
            yield from part.modules()


@contextmanager
def _in_place(pipe: Any) -> Iterator[None]:
    """Without accelerate's moving the network off its device when the decoder comes onto it: the
    gradient still has to go back through both."""
    hooks: list[Any] = [getattr(module, "_hf_hook", None) for module in pipe.components.values()]
    chained = {hook: hook.prev_module_hook for hook in hooks if hasattr(hook, "prev_module_hook")}
    for hook in chained:
        hook.prev_module_hook = None
    try:
        yield
    finally:
        for hook, previous in chained.items():
            hook.prev_module_hook = previous
