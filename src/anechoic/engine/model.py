"""What a guard asks of a model before anything is generated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anechoic.errors import IndexMismatch


def require_own_index(index: Any, fingerprint: Callable[[], str]) -> None:
    """Refuse an index that holds another model's training clips.

    Args:
        index: any training set; one that does not name its model is taken to be the model's own.
        fingerprint: computes the model's; it is called where the index names a model.

    Raises:
        IndexMismatch: the index is another model's.
    """
    model = getattr(index, "model", None)
    if model and model != (own := fingerprint()):
        name = getattr(index, "name", "")
        raise IndexMismatch(
            f"index {f'{name!r} ' if name else ''}holds the training clips of model '{model}', but "
            f"this model is '{own}': nothing can be guarded or judged by the wrong clips; use this "
            "model's own index"
        )
