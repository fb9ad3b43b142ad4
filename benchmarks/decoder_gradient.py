"""What a gradient through Stable Audio Open's decoder keeps and takes, kept in several ways.

    python benchmarks/decoder_gradient.py --repeats 8

A narrow Oobleck decoder with random weights, on one thread. Memory is counted, the most that
tensors made after the call had at once; times are the processor's, medians, the ways taking turns.
Prints a table in Markdown (docs/project/decisions/0007-decoder-gradient.md).
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from anechoic_lab.doctor.footprint import PeakMemory
from diffusers import AutoencoderOobleck
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from anechoic.engine.memory_efficient import Part, memory_efficient, saving_memory
from anechoic.environment import machine

CHANNELS, LATENTS = 12, 85


def decoder() -> Any:
    """Without the weights' gradients, and with activations of many slopes."""
    torch.manual_seed(0)
    vae = AutoencoderOobleck(decoder_channels=CHANNELS).requires_grad_(False).decoder
    for part in named(vae, "Snake1d"):
        nn.init.normal_(part.alpha, std=0.3)
        nn.init.normal_(part.beta, std=0.3)
    return vae


def named(network: nn.Module, name: str) -> list[Any]:
    """The modules of a class."""
    return [part for part in network.modules() if type(part).__name__ == name]


def computed_again(modules: Iterable[nn.Module]) -> list[Part]:
    """Modules under torch's own checkpointing."""

    def call(module: Any, x: Tensor) -> Tensor:
        return checkpoint(type(module).forward, module, x, use_reentrant=False)

    return [(module, partial(call, module)) for module in modules]


def gradient(network: Callable[[Tensor], Tensor], parts: list[Part]) -> Tensor:
    x = torch.randn(1, 64, LATENTS, generator=torch.Generator().manual_seed(1)).requires_grad_()
    with saving_memory(parts):
        (slope,) = torch.autograd.grad(network(x).square().sum(), x)
    return slope


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=8)
    repeats = parser.parse_args().repeats
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    network = decoder()
    ways: dict[str, list[Part]] = {
        "as autograd does": [],
        "each Snake computed again": computed_again(named(network, "Snake1d")),
        "each Snake stores its input": memory_efficient(named(network, "Snake1d")),
        "... and convolutions nothing": memory_efficient(network.modules()),
        "each residual unit computed again": computed_again(named(network, "OobleckResidualUnit")),
        "each block computed again": computed_again(network.block),
        "the decoder computed again": computed_again([network]),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats + 1):
        for way, parts in ways.items():
            start = time.process_time()
            gradient(network, parts)
            times[way].append(time.process_time() - start)
    print(", ".join(f"{key} {value}" for key, value in machine("1, one thread").items()), "\n")
    print("| | peak, MiB | | seconds | | off by |\n|---|---|---|---|---|---|")
    exact = gradient(network, [])
    first: tuple[float, float] | None = None
    for way, parts in ways.items():
        with PeakMemory() as memory:
            slope = gradient(network, parts)
        off = ((slope - exact).norm() / exact.norm()).item()
        seconds = statistics.median(times[way][1:])  # the first is slower
        first = first or (memory.peak, seconds)
        print(
            f"| {way} | {memory.peak / 2**20:.0f} | {memory.peak / first[0]:.2f} "
            f"| {seconds:.2f} | {seconds / first[1]:.2f} | {off:.0e} |"
        )


if __name__ == "__main__":
    main()
