"""GUARD: away from the prompt, towards the prompt with its loudest tokens attenuated."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from anechoic.engine.wrapping import Block, Hook
from anechoic.errors import BadSetting, GuardError
from anechoic.guidance.base import Guidance
from anechoic.guidance.cfg import check_scale
from anechoic.guidance.step import Guided, Step

# How many tokens at each end are no words: a mark of the start, or the sample's start and end in s.
NO_WORDS = {"UNet2DConditionModel": (1, 0), "StableAudioDiTModel": (0, 2)}
PARTS = ("down_blocks", "mid_block", "up_blocks")  # of a U-Net, in the order of a pass


@dataclass(frozen=True)
class AttentionAttenuation(Guidance):
    """Repels from the prompt's estimate, and attracts to it with outlying attention attenuated.

    In a second pass with the prompt, in each of the first cross-attentions of the network, a head's
    scores q.k of a token are multiplied by `factor` where the token's greatest score over all
    positions is more than `threshold` deviations above the mean of all tokens. With its estimate a:

        out = u + scale*(a - u) - r*(c - u),   r = repulsion * cos(progress * pi/2)

    It needs no training set, and costs half a plain evaluation more. It is known how to do this to
    Stable Diffusion's U-Net, XL's too, and to Stable Audio's transformer; others are refused.

    A key that is multiplied multiplies its scores, so this is exact, with one exception: where
    heads share their keys, as Stable Audio's do in groups, they are attenuated together, by the
    greatest score of the group.

    Args:
        network: the pipeline's own, whose attention is attenuated: `pipe.unet`, `pipe.transformer`.
        scale: the weight of attraction, and classifier-free guidance's own where nothing else is.
        repulsion: the weight of repulsion at the first step; 0: attenuation alone.
        factor: what outlying scores are multiplied by, in [0, 1).
        threshold: deviations above the mean, 0 or more.
        depth: the share of the network's cross-attentions that are attenuated, from its input on;
            the paper takes the U-Net's way down and its middle, 7 of 16.

    Raises:
        BadSetting: a setting out of range, or a network whose attention is another.
        GuardError: the network that was evaluated is another one.

    Source: Zhao et al., 2026 (arXiv:2603.00133), as in the released code, whose settings are the
    defaults. That code leaves the first token alone, the mark of the start in Stable Diffusion;
    here the seconds at the end of Stable Audio's prompt are left alone likewise.
    """

    network: nn.Module = field(repr=False, compare=False)
    scale: float = 7.5
    repulsion: float = 2.0
    factor: float = 0.3
    threshold: float = 0.1
    depth: float = 0.45

    def __post_init__(self) -> None:
        check_scale(self.scale)
        for name, most in (("repulsion", math.inf), ("factor", 1.0), ("threshold", math.inf)):
            if not 0 <= getattr(self, name) < most:
                limit = "" if most == math.inf else f" and below {most:g}"
                raise BadSetting(f"expected {name} of 0 or more{limit}, got {getattr(self, name)}")
        if not 0 < self.depth <= 1:
            raise BadSetting(f"expected depth, a share above 0 and up to 1, got {self.depth}")
        _ = self._layers

    def looks_back(self) -> bool:
        return False

    def __call__(self, step: Step) -> Guided:
        with self._attenuated() as counts:
            attenuated = step.denoise(step.x, "cond")
        if not counts:
            raise GuardError(
                "the network whose attention is attenuated was not evaluated; give "
                "AttentionAttenuation the network of the pipeline that it guards"
            )
        repulsion = self.repulsion * math.cos(step.progress * math.pi / 2)
        delta = self.scale * (attenuated - step.cond)
        return Guided(self.scale - repulsion, delta, {"attenuated": torch.stack(counts).mean(0)})

    @cached_property
    def _layers(self) -> list[Any]:
        """The cross-attentions that are attenuated, in the order of a pass."""
        whole = getattr(self.network, "_orig_mod", self.network)  # of torch.compile
        name = type(whole).__name__
        found = [
            (path, layer) for path, layer in whole.named_modules()
            if getattr(layer, "is_cross_attention", False) and hasattr(layer, "to_k")
        ]  # fmt: skip
        known = name in NO_WORDS and found
        if not known or any(getattr(layer, "norm_k", None) is not None for _, layer in found):
            raise BadSetting(
                f"expected a network of {' or '.join(sorted(NO_WORDS))} whose cross-attention can "
                f"be attenuated, got {name}; use a method that looks at the estimate alone"
            )
        if whole is not self.network or self.network._compiled_call_impl is not None:
            raise BadSetting("the network is compiled, and its attention cannot be changed; give "
                             "the pipeline as it was before")  # fmt: skip
        found.sort(key=lambda item: _part(item[0]))
        return [layer for _, layer in found[: math.ceil(self.depth * len(found))]]

    @contextmanager
    def _attenuated(self) -> Iterator[list[Tensor]]:
        """A block in which the network attends less to what stands out. Yields, for each attention
        that was evaluated, the share of tokens that each sample's heads attenuated, [b]."""
        counts: list[Tensor] = []
        handles = []
        first, last = NO_WORDS[type(self.network).__name__]

        def watch(layer: Any, block: Block) -> None:
            queries: list[Tensor] = []

            def asked(module: nn.Module, args: Any, output: Tensor) -> None:
                queries[:] = [output]

            def answered(module: nn.Module, args: Any, keys: Tensor) -> Tensor:
                heads = queries[0].unflatten(2, (layer.heads, -1)).transpose(1, 2)
                grouped = keys.unflatten(2, (-1, heads.shape[-1])).transpose(1, 2)
                loud = outlying(heads, grouped, self.threshold, first, last)
                counts.append(loud.flatten(1).float().mean(1))
                factors = torch.where(loud, self.factor, 1.0).to(keys)[..., None]
                quieter: Tensor = (grouped * factors).transpose(1, 2).flatten(2)
                return quieter

            handles.append(layer.to_q.register_forward_hook(Hook(block, asked)))
            handles.append(layer.to_k.register_forward_hook(Hook(block, answered)))

        with Block() as block:  # another thread may evaluate the network
            for layer in self._layers:
                watch(layer, block)
            try:
                yield counts
            finally:
                for handle in handles:
                    handle.remove()


def outlying(queries: Tensor, keys: Tensor, threshold: float, first: int, last: int) -> Tensor:
    """Which tokens a head's scores stand out at, [b, groups, s], bool.

    Args:
        queries: [b, heads, positions, d].
        keys: [b, groups, s, d]; each group's heads share them.
        threshold: deviations above the mean of the tokens.
        first, last: tokens at either end that are left alone.
    """
    share = queries.shape[1] // keys.shape[1]
    scores = queries.float() @ keys.float().repeat_interleave(share, 1).mT
    greatest = scores.amax(2).unflatten(1, (-1, share)).amax(2) / keys.shape[-1] ** 0.5
    words = greatest[..., first : greatest.shape[-1] - last]
    deviations = (greatest - words.mean(-1, keepdim=True)) / (words.std(-1, keepdim=True) + 1e-6)
    loud: Tensor = deviations > threshold
    loud[..., :first] = False
    loud[..., loud.shape[-1] - last :] = False
    return loud


def _part(path: str) -> int:
    name = path.partition(".")[0]
    return PARTS.index(name) if name in PARTS else 0
