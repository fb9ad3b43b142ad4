"""How well a sound fits a text, by an embedder of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Adherence = Callable[[Tensor, int, str], float | None]  # of a sound [c, t], its rate, its prompt


def cosine_to_text(embedder: Any) -> Callable[[Tensor, int, str], float] | None:
    """The cosine of a sound and its prompt by an embedder that has `text`, as CLAP's; None: it
    embeds sound alone.

    Source: Wu et al., 2023 (arXiv:2211.06687).
    """
    if not hasattr(embedder, "text"):
        return None

    @torch.no_grad()
    def score(wav: Tensor, sample_rate: int, prompt: str) -> float:
        return float((embedder(wav[None], sample_rate) @ embedder.text([prompt]).T).item())

    return score
