"""guard(): one way in for the models of all libraries."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from anechoic.engine.trace import Trace

if TYPE_CHECKING:
    from anechoic.auto import GuidedBy

__all__ = ["Trace", "guard"]


def guard(model: Any, guidance: GuidedBy) -> AbstractContextManager[Trace]:
    """Guide every generation of a model inside the `with` block.

    Given an index, or the path of one, or several of them, it is `anechoic.auto.Auto` that guides:
    its settings are read off the indexes, and its scale is the model's default.

    Args:
        model: a diffusers pipeline (see `anechoic.diffusers.guard.guard`), or a model of
            stable-audio-tools (see `anechoic.stable_audio_tools.guard.guard`).
        guidance: the index of the training set, or several; or a method, or a function of a
            `Step`.

    Returns:
        A block that yields a `Trace`, which fills while the model generates.

    Raises:
        BadSetting: on entry, `guidance` is neither an index nor a method nor a function.
        UnsupportedPipeline: on entry, the model is not one that can be guarded.
        IndexMismatch: on entry, the guidance's index is of another model's training set.
        GuardError: on entry, a guard inside a guard; inside, a generation that this guidance cannot
            guard; at the end, a block in which nothing was generated.

    ```python
    with guard(pipe, ClassifierFree(7.0)):
        pipe("a dog barks")
    ```
    """
    if any(cls.__name__ == "ConditionedDiffusionModelWrapper" for cls in type(model).__mro__):
        from anechoic.stable_audio_tools import guard as native

        return native(model, guidance)
    from anechoic.diffusers.guard import guard as pipeline

    return pipeline(model, guidance)
