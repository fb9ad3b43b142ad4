"""PipelinePool: pipelines that share their weights, one for each thread that generates."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Condition, get_ident
from typing import Any

import torch
from torch import nn

from anechoic.diffusers.connection import changeable
from anechoic.diffusers.pipelines import adapter_for
from anechoic.diffusers.schedules import check_scheduler
from anechoic.engine.wrapping import Method, frozen
from anechoic.errors import BadSetting, GuardError, NoPipelineFree, UnsupportedPipeline


class PipelinePool:
    """Pipelines for threads that generate at the same time, with one copy of the weights.

    A pipeline serves one call at a time: it remembers the call's scale, its scheduler counts the
    steps, and a tokenizer is changed by being used. Here each call gets a pipeline with these parts
    of its own. Each can be guarded by itself or called plainly, and gives bit for bit what it gives
    alone:

        pool = PipelinePool(pipe, 4)

        def answer(prompt, seed):
            with pool.pipeline() as own, guard(own, guidance):
                return own(prompt, generator=torch.Generator().manual_seed(seed)).audios[0]

    A call without a generator draws its noise from one stream that all threads share. What a call
    sets on its pipeline, such as another scheduler, ends with it. The weights are the same for all,
    so change them, as by loading a LoRA, while no call runs. In a pool of 1, calls wait for each
    other.

    Args:
        pipe: a pipeline that `guard` knows. It stays as it is, for one thread beside the pool; but
            its weights want no gradient until the pool is closed, since a product of matrices may
            be rounded otherwise where they do.
        count: how many calls run at once. Each needs memory of its own, besides the weights.

    Raises:
        UnsupportedPipeline: a pipeline that cannot be guarded; or one whose parts are changed while
            they run, as by offloading, for a count above 1.
        BadSetting: a count below 1.
        GuardError: it is guarded now.

    Source: for the schedulers, diffusers' guide to servers
    (https://huggingface.co/docs/diffusers/using-diffusers/create_a_server).
    """

    def __init__(self, pipe: Any, count: int) -> None:
        if count < 1:
            raise BadSetting(f"expected a pool of 1 pipeline or more, got {count}")
        adapter_for(pipe)
        check_scheduler(pipe.scheduler)
        if isinstance(pipe.check_inputs, Method):
            raise GuardError(
                "the pipeline is guarded now, and those of a pool are guarded one by one; make the "
                "pool before the guard's block"
            )
        if count > 1:
            _require_shareable(pipe)
        self._frozen = ExitStack()
        self._frozen.enter_context(frozen(changeable(pipe)))
        self._free = [_with_own_parts(pipe) for _ in range(count)]
        self._count = count
        self._takers: list[int] = []  # the threads that have the others
        self._closed = False
        self._changed = Condition()

    @contextmanager
    def pipeline(self, timeout: float | None = None) -> Iterator[Any]:
        """Take a pipeline for the length of a `with` block; where all are taken, wait for one.

        Args:
            timeout: the longest wait, in seconds; None: any.

        Raises:
            NoPipelineFree: the pool is closed; or none became free in time; or waiting would never
                end, since this thread has all of them, or runs the event loop of asyncio.
        """
        taker = get_ident()
        own = self._take(taker, timeout)
        try:
            pipe = copy.copy(own)
            pipe.scheduler = copy.deepcopy(own.scheduler)
            yield pipe
        finally:
            with self._changed:
                self._takers.remove(taker)
                self._free.append(own)
                self._changed.notify()
                self._thaw()

    def close(self) -> None:
        """Give out no more pipelines. Threads that wait for one are refused; those that have one
        keep it to the end of their block."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._thaw()

    def __enter__(self) -> PipelinePool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _thaw(self) -> None:
        if self._closed and not self._takers:
            self._frozen.close()

    def _take(self, taker: int, timeout: float | None) -> Any:
        with self._changed:
            if not self._free and not self._closed:
                self._require_hope(taker)
            if not self._changed.wait_for(lambda: self._free or self._closed, timeout):
                raise NoPipelineFree(
                    f"all {self._count} pipelines of the pool were taken for {timeout:g} s; try "
                    "again later, or make a larger pool"
                )
            if self._closed:
                raise NoPipelineFree(
                    "the pool is closed, and gives out no more pipelines; make another one"
                )
            self._takers.append(taker)
            return self._free.pop()

    def _require_hope(self, taker: int) -> None:
        """Refuse to wait where that would never end.

        Raises:
            NoPipelineFree: it would not.
        """
        if set(self._takers) == {taker}:
            raise NoPipelineFree(
                f"this thread has all {self._count} pipelines of the pool, and would wait for "
                "itself; use the one that it has, or make a larger pool"
            )
        with suppress(RuntimeError):  # there is no event loop
            asyncio.get_running_loop()
            raise NoPipelineFree(
                f"all {self._count} pipelines of the pool are taken, and to wait for one would "
                "stop the event loop; take it in a function that asyncio.to_thread calls"
            )


def _with_own_parts(pipe: Any) -> Any:
    """The same pipeline, with a scheduler, tokenizers and the like of its own."""
    own = copy.copy(pipe)
    for name, part in pipe.components.items():
        if part is not None and not isinstance(part, nn.Module):
            setattr(own, name, copy.deepcopy(part))
    return own


def _require_shareable(pipe: Any) -> None:
    """Refuse parts that change while they run.

    Raises:
        UnsupportedPipeline: there are such.
    """
    parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    if any(_is_moved(module) for part in parts for module in part.modules()):
        raise UnsupportedPipeline(
            "the parts of this pipeline are moved or cast while they run (offloading, layerwise "
            "casting, a cache), which threads cannot share; take that off, or make a pool of 1, "
            "whose calls wait for each other"
        )
    vae: Any = getattr(pipe, "vae", None)
    if vae is not None and vae.dtype == torch.float16 and vae.config.get("force_upcast"):
        raise UnsupportedPipeline(
            "this pipeline's decoder is cast to float32 and back at each call, which threads "
            "cannot share; load the pipeline in bfloat16, or make a pool of 1, whose calls wait "
            "for each other"
        )


def _is_moved(module: nn.Module) -> bool:
    """Whether accelerate or diffusers has put hooks around a module that change it."""
    registry: Any = getattr(module, "_diffusers_hook", None)
    return hasattr(module, "_hf_hook") or bool(registry is not None and registry.hooks)
