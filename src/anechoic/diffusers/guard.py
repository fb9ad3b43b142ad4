"""guard(): guidance for a stock pipeline, through a forward hook on its network.

The pipeline's network is called with both halves of classifier-free guidance, and the pipeline
then computes u + w*(c - u). The hook replaces both halves by the guided prediction g, which
turns that line into g + w*(g - g) = g, for any w.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from anechoic.diffusers.connection import Connection, changeable
from anechoic.diffusers.hooks import Hooks
from anechoic.diffusers.pipelines import adapter_for, fingerprint
from anechoic.diffusers.schedules import check_scheduler
from anechoic.errors import GuardError, IndexMismatch, UnsupportedPipeline
from anechoic.guidance.base import Guidance, as_guidance
from anechoic.guidance.step import Guided, Record, Step

_guarded: WeakSet[nn.Module] = WeakSet()


@dataclass
class Trace:
    """What a guard did: for each generation, one record an evaluation of the network."""

    runs: list[list[Record]] = field(default_factory=list)

    @property
    def records(self) -> list[Record]:
        """The records of the latest generation."""
        return self.runs[-1] if self.runs else []

    def column(self, name: str) -> Tensor:
        """One quantity of the latest generation over its evaluations, [n, b].

        `name` is "distance", "scale" or a note of the method, such as "similarity" or "gate".
        """
        return torch.stack(
            [getattr(r, name) if name in ("distance", "scale") else r.notes[name]
             for r in self.records]
        )  # fmt: skip


@contextmanager
def guard(pipe: Any, guidance: Guidance | Callable[[Step], Guided | Tensor]) -> Iterator[Trace]:
    """Guide every generation of `pipe` inside the `with` block.

    The pipeline stays what it is: nothing is subclassed or replaced, and it is as before when the
    block ends. Inside, the guidance owns the scale; call the pipeline with any
    `guidance_scale` above 1. With `ClassifierFree(scale)` the output is bit for bit that of
    the plain pipeline at that scale.

    A generation without an unconditional half, for guidance_scale <= 1 or a distilled model, has no
    scale: only methods that do without are guarded there, such as the dissimilarity of
    `AntiMemorization(c1=0, c2=0)`, and their scale does nothing.

    Args:
        pipe: a diffusers pipeline from the table in `anechoic.diffusers.adapters`.
        guidance: a method, or a function of a `Step`.

    Yields:
        A `Trace` that fills while the pipeline runs.

    Raises:
        BadSetting: `guidance` is neither a method nor a function of a `Step`.
        UnsupportedPipeline: the pipeline or its scheduler is not one that can be guarded, or the
            guidance hears sound and the pipeline makes images, or the other way round.
        IndexMismatch: the guidance's index is of another model's training set.
        GuardError: a guard inside a guard; a generation that this guidance cannot guard; values
            that are not finite; a block in which nothing was generated.
    """
    method = as_guidance(guidance)
    connection = adapter_for(pipe)
    check_scheduler(pipe.scheduler)
    _check_model(pipe, method)
    _check_embedders(connection, method)
    network = connection.network
    if network in _guarded:
        raise GuardError(
            "this pipeline is guarded already, and a guard inside a guard would undo it; leave "
            "the outer 'with guard(...)' block first, or compose the two methods into one"
        )
    trace = Trace()
    hooks = Hooks(connection, method, trace.runs)
    _guarded.add(network)
    connection.attach(hooks.begin)
    connection.surround(hooks.before, hooks.after)
    try:
        with _frozen(pipe):
            yield trace
        if not any(trace.runs):
            raise GuardError(
                "nothing was generated inside this guard, so nothing was protected; call the "
                "guarded pipeline inside the 'with' block"
            )
    finally:
        connection.detach()
        _guarded.discard(network)


@contextmanager
def _frozen(pipe: Any) -> Iterator[None]:
    """Without gradients of weights: a gradient through the decoder keeps two thirds more of its
    inner values where its weights might want one, too.

    A compiled part is left as it is, for it would be compiled anew.
    """
    found = [
        (module, name)
        for module in changeable(pipe)
        for name, weight in module.named_parameters(recurse=False)
        if weight.requires_grad
    ]
    for module, name in found:
        getattr(module, name).requires_grad_(False)
    try:
        yield
    finally:
        for module, name in found:  # by name: offloading puts other tensors in their place
            getattr(module, name).requires_grad_(True)


def _check_model(pipe: Any, guidance: Guidance) -> None:
    for index in guidance.indexes():
        if index.model and index.model != fingerprint(pipe):
            raise IndexMismatch(
                f"the index holds the training clips of model '{index.model}', but this pipeline's "
                f"weights are '{fingerprint(pipe)}': it would keep away from the wrong clips; use "
                "this model's own index"
            )


def _check_embedders(connection: Connection, guidance: Guidance) -> None:
    """Refuse an embedder of sound for a pipeline of images, in any method inside the guidance."""
    makes_images = connection.adapter.sound is None
    for embedder in guidance.embedders():
        of_images = embedder.sample_rate == 0
        if of_images != makes_images:
            words = {True: "images", False: "sound"}
            raise UnsupportedPipeline(
                f"{type(connection.pipe).__name__} makes {words[makes_images]}, and embedder "
                f"'{embedder.name}' is one of {words[of_images]}; use an index and an embedder of "
                f"{words[makes_images]}"
            )
