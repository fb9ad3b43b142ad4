"""Compares the memory that a guarded generation needs with the free memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anechoic.diffusers.loading import DTYPES
from anechoic.errors import BadSetting
from anechoic.guidance.base import Guidance, Reach
from anechoic.index import JoinedIndex, TrainingIndex
from anechoic.types import Embedder, parts_of
from anechoic_lab.doctor.blueprint import Blueprint
from anechoic_lab.doctor.footprint import footprint
from anechoic_lab.doctor.record import Memory


def estimate(
    blueprint: Blueprint,
    dtype: str,
    device: torch.device,
    seconds: float | None,
    guidance: Guidance | None,
    store: TrainingIndex | JoinedIndex | None,
    embed: Embedder | None,
) -> Memory:
    """The memory that one sound needs under a guard, and the free memory."""
    reach = guidance.gradient_reach() if guidance else "none"
    return Memory(
        weights=blueprint.parameters * DTYPES[dtype].itemsize,
        embedder=_embedder_bytes(embed),
        index=0 if store is None else sum(4 * len(part) * part.dim for part in parts_of(store)),
        footprint=footprint(
            blueprint.pipe,
            DTYPES[dtype],
            reach,
            seconds,
        ),
        free=free_bytes(device),
    )


def require_enough(memory: Memory, dtype: str, device: torch.device, reach: Reach) -> str:
    """Needed and free memory as text.

    Raises:
        BadSetting: more memory is needed than is free.
    """
    needed, free = binary(memory.needed), binary(memory.free)
    text = f"{needed} needed ({_shares(memory)}), {free} free on {device}"
    if memory.needed > memory.free:
        raise BadSetting(f"{text}; {_fix(dtype, reach)}")
    return text


def _shares(memory: Memory) -> str:
    shares = {"weights": memory.weights, "embedder": memory.embedder, "index": memory.index}
    if (counted := memory.footprint) is not None:
        what = "the guard's gradient" if counted.guard == counted.peak else "the decoder"
        what = "the network" if counted.peak == counted.network else what
        shares[what] = counted.peak
    text = ", ".join(f"{name} {binary(size)}" for name, size in shares.items() if size)
    return text if counted is not None else f"{text}; activations are not counted"


def _fix(dtype: str, reach: Reach) -> str:
    fixes = []
    if dtype == "float32":
        fixes.append("halve it with '--dtype bfloat16'")
    if reach == "network":
        fixes.append("stop the gradient at the estimate with '--set gradient=x0'")
    if reach != "none":
        fixes.append("make shorter sound with '--seconds'")
        fixes.append("guard without a gradient: '--set c3=0', or 'static' and 'dynamic'")
    return ", or ".join([*fixes, "use a machine with more"])


def free_bytes(device: torch.device) -> int:
    """Bytes available to a new process, on the GPU or the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return int(psutil.virtual_memory().available)


def _embedder_bytes(embed: Embedder | None) -> int:
    held = [] if embed is None else list(vars(embed).values())
    modules = [part for part in held if isinstance(part, nn.Module)]
    tensors = [tensor for part in modules for tensor in part.parameters()]
    return sum(t.nbytes for t in [*tensors, *(part for part in held if isinstance(part, Tensor))])


def binary(size: int) -> str:
    """A size in bytes, with a binary unit.

    >>> binary(5 * 2**30), binary(1_500_000)
    ('5 GiB', '1.43 MiB')
    """
    for name, unit in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size / 2**10:.3g} KiB"
