"""Averaged weights, put in the place of the trained ones for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import nn


def averaged(
    ema: Any, parameters: Iterable[nn.Parameter]
) -> Callable[[], AbstractContextManager[None]]:
    """What a `Monitor` takes as `weights` where a trainer keeps an `EMAModel` of diffusers.

    Args:
        ema: has `store`, `copy_to` and `restore`, each of which takes parameters.
        parameters: those that it averages.

    Example:
        Monitor.of(pipe, "clips.index", "monitor", weights=averaged(ema, pipe.unet.parameters()))
    """
    trained = list(parameters)

    @contextmanager
    def weights() -> Iterator[None]:
        ema.store(trained)
        ema.copy_to(trained)
        try:
            yield
        finally:
            ema.restore(trained)

    return weights
