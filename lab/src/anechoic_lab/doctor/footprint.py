"""Counts the memory of a generation on the meta device: without weights, in a second.

A guard that follows a gradient stores some of the decoder's activations for the backward pass, and
they can be larger than the model: 17 GiB for the 47.6 s of Stable Audio Open in float32. Attention
is counted as the meta device computes it, with the whole score matrix in float32, which a fused
kernel never stores. So the figure for the denoiser is an upper bound.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from anechoic.diffusers.adapters.adapter import CallRecorder
from anechoic.diffusers.adapters.stable_audio import ADAPTER
from anechoic.engine.memory_efficient import memory_efficient, saving_memory
from anechoic.guidance.base import Reach

FRAMES = 130  # tokens of the encoded prompt: T5's 128, and the start and end times


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of the tensors created inside it, now and at the peak.

    Sizes and lifetimes are the same on any device; an allocator's rounding and a kernel's workspace
    are not counted.

    >>> with PeakMemory() as memory:
    ...     _ = torch.ones(1000, device="meta") + 1
    >>> memory.peak
    8000
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):  # existing tensors are not counted
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage(), 0)
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._note(storage, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return made

    def _note(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@dataclass(frozen=True)
class Footprint:
    """Bytes that one sample needs in addition to the weights."""

    network: int  # one evaluation of both predictions
    decoder: int  # latents to sound
    guard: int  # the guard's gradient, with its whole backward pass; 0: no gradient

    @property
    def peak(self) -> int:
        return max(self.network, self.decoder, self.guard)


def footprint(
    pipe: Any, dtype: torch.dtype, reach: Reach = "none", seconds: float | None = None
) -> Footprint | None:
    """Count the memory that one sample of a pipeline needs.

    Args:
        pipe: a pipeline on the meta device: see `anechoic_lab.doctor.blueprint`.
        dtype: the dtype that it would run in.
        reach: how far back the guard's gradient goes: "none" without one, only the "decoder", or
            also the "network".

    Returns:
        None if it is not known: for all pipelines except Stable Audio with its own codec.
    """
    if [type(pipe).__name__, type(pipe.vae).__name__] != [
        "StableAudioPipeline",
        "AutoencoderOobleck",
    ]:
        return None
    network, codec = pipe.transformer, pipe.vae
    shape = (1, network.config.in_channels, int(network.config.sample_size))
    dtypes = {module: module.dtype for module in (network, codec)}
    for module in dtypes:
        nn.Module.to(module, dtype).requires_grad_(False)  # diffusers' `to` would warn

    def latents(batch: int = 1) -> Tensor:
        return torch.empty(batch, *shape[1:], dtype=dtype, device="meta")

    end_s = ADAPTER.sound.longest_s(pipe) if seconds is None and ADAPTER.sound else seconds
    asked = {"audio_start_in_s": 0.0, "audio_end_in_s": end_s}
    recorder = CallRecorder(pipe, {}, {"check_inputs": asked})

    def back(function: Callable[[Tensor], Tensor]) -> int:
        x = latents().requires_grad_(True)
        return _peak(lambda: torch.autograd.grad(function(x).sum(), x))

    try:
        with torch.no_grad():
            forward = _peak(lambda: _evaluate(network, latents(2)))
            decoded = _peak(lambda: codec.decode(latents()).sample)
        guard = 0
        with saving_memory(memory_efficient(codec.modules())):  # as a guard decodes for a gradient
            if reach == "decoder":
                guard = back(lambda x: ADAPTER.decode(recorder, x))
            elif reach == "network":
                guard = back(lambda x: ADAPTER.decode(recorder, _evaluate(network, x)))
    finally:
        for module, own in dtypes.items():
            nn.Module.to(module, own)
    return Footprint(forward, decoded, guard)


def _peak(function: Callable[[], Any]) -> int:
    with PeakMemory() as memory:
        function()
    return int(memory.peak)


def _evaluate(network: Any, x: Tensor) -> Tensor:
    """Call Stable Audio's network with arguments of the right shapes."""
    config = network.config
    size = config.attention_head_dim // 2
    rotary = torch.empty(x.shape[-1] + 1, size, device=x.device)
    prediction: Tensor = network(
        x,
        torch.empty(1, device=x.device),
        encoder_hidden_states=x.new_empty(len(x), FRAMES, config.cross_attention_input_dim),
        global_hidden_states=x.new_empty(len(x), 1, config.global_states_input_dim),
        rotary_embedding=(rotary, rotary),
        return_dict=False,
    )[0]
    return prediction
