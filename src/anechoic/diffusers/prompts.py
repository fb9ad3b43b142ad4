"""The encoded prompt: what the network is told of the words, as one tensor [b, s, d].

Some networks are told in several places: tokens of two encoders, a pooled embedding. A method that
changes the prompt has to reach all of them, or the words come through where it did not look. So
all are laid out as tokens of one width, the greatest that divides all theirs, one after another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from anechoic.diffusers.adapters import Adapter
from anechoic.diffusers.cfg_batch import DenoiserInputs, get, put


def pieces(adapter: Adapter, half: DenoiserInputs) -> list[Tensor]:
    """The text of a half, [b, s, d] each: without tails, and zero where a mask hides it."""
    found = []
    for text in adapter.text:
        tokens = get(half, text.name)
        mask = None if text.mask is None else get(half, text.mask)
        tokens = tokens[:, None] if tokens.dim() == 2 else tokens
        end = tokens.shape[1] - text.tail
        tokens = tokens[:, :end]
        if mask is not None:
            tokens = tokens * mask[:, :end, None].to(tokens.dtype)
        found.append(tokens)
    return found


def encoded_pieces(adapter: Adapter, encoded: Mapping[str, Tensor]) -> list[Tensor]:
    """What `Adapter.encode` made, [b, s, d] each; it has no tails."""
    nested: DenoiserInputs = {}
    for name, value in encoded.items():
        first, _, rest = name.partition(".")
        nested[first] = {**nested.get(first, {}), rest: value} if rest else value
    found = []
    for text in adapter.text:
        tokens = get(nested, text.name)
        tokens = tokens[:, None] if tokens.dim() == 2 else tokens
        if text.mask is not None:
            tokens = tokens * get(nested, text.mask)[:, :, None].to(tokens.dtype)
        found.append(tokens)
    return found


def replaced(adapter: Adapter, half: DenoiserInputs, new: Sequence[Tensor]) -> DenoiserInputs:
    """A half with other text: tails stay, masks follow the tokens that are not zero."""
    for text, tokens in zip(adapter.text, new, strict=True):
        old = get(half, text.name)
        tokens = tokens.to(old)
        if old.dim() == 2:
            half = put(half, text.name, tokens[:, 0])
            continue
        tail = old[:, old.shape[1] - text.tail :]
        half = put(half, text.name, torch.cat([tokens, tail], 1))
        if text.mask is not None:
            mask = get(half, text.mask)
            there = (tokens != 0).any(-1).to(mask)
            half = put(half, text.mask, torch.cat([there, mask[:, mask.shape[1] - text.tail :]], 1))
    return half


def pack(new: Sequence[Tensor]) -> Tensor:
    """Pieces [b, s, d] as one tensor.

    >>> pack([torch.zeros(2, 77, 2048), torch.zeros(2, 1, 1280)]).shape
    torch.Size([2, 621, 256])
    """
    width = math.gcd(*(piece.shape[2] for piece in new))
    return torch.cat([piece.reshape(len(piece), -1, width) for piece in new], 1)


def unpack(encoded: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The pieces of a packed tensor; the last one may have another number of tokens."""
    width = encoded.shape[2]
    rows = [piece.shape[1] * piece.shape[2] // width for piece in like[:-1]]
    parts = encoded.split([*rows, encoded.shape[1] - sum(rows)], 1)
    return [
        part.reshape(len(part), -1, piece.shape[2]) for part, piece in zip(parts, like, strict=True)
    ]


def fits(adapter: Adapter, changed: Tensor, encoded: Tensor) -> bool:
    """Whether a changed prompt can take the place of the one it was made of."""
    same = (changed.shape[0], changed.shape[2]) == (encoded.shape[0], encoded.shape[2])
    return same and (adapter.text[-1].any_length or changed.shape[1] == encoded.shape[1])


def stacked(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The pieces of several samples as those of a batch; shorter ones are filled up with zeros."""
    batch = []
    for parts in zip(*rows, strict=True):
        length = max(part.shape[1] for part in parts)
        batch.append(torch.cat([pad(part, (0, 0, 0, length - part.shape[1])) for part in parts]))
    return batch
