"""What a guard asks of a model before anything is generated."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from anechoic.errors import IndexMismatch, UnsupportedPipeline
from anechoic.guidance.base import Guidance
from anechoic.types import LONGER_WINDOW, parts_of, require_whole

Makes = Literal["sound", "images"]
SEPARATOR = "+"  # in a fingerprint, between the model and each of its adapters


class Model(Protocol):
    """A model that can be guarded, as its engine describes it."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def owner(self) -> object:
        """What serves one guard at a time, such as a pipeline."""

    @property
    def network(self) -> object:
        """The network itself, which several owners may share: a guard inside a guard is refused."""

    @property
    def makes(self) -> Makes: ...

    @property
    def sample_rate(self) -> int:
        """Of its sound, in Hz; 0 of images."""

    @property
    def guided_by(self) -> str:
        """What a user does so that a generation has an unconditional half: a clause."""

    def fingerprint(self) -> str:
        """A short name of its weights, which an index of its training set carries."""

    def codec_fingerprint(self) -> str:
        """A short name of its codec, which stored latents carry; "": it has none."""

    def frozen(self) -> AbstractContextManager[None]:
        """A block in which no weight wants a gradient."""


def require_guardable(model: Model, guidance: Guidance, seconds: float | None = None) -> None:
    """Refuse a guidance that cannot act on a model.

    Args:
        model: the model.
        guidance: the guidance.
        seconds: the length of the sound that will be generated; None: it is not known yet.

    Raises:
        BadSetting: an embedder would cut off sound of this length.
        IndexMismatch: one of its indexes holds another model's training clips, or latents of
            another codec.
        UnsupportedPipeline: it compares sound, and the model makes images, or the other way round.
    """
    for index in guidance.indexes():
        require_own_index(index, model.fingerprint)
        codec = getattr(index, "codec", None)  # of latents
        if codec and codec != (own := model.codec_fingerprint()):
            raise IndexMismatch(
                f"expected latents made by this model's codec '{own}', got those of '{codec}', "
                "whose distances mean nothing here; make them again with 'anechoic index latents'"
            )
    for embedder in guidance.embedders():
        compares: Makes = "images" if embedder.sample_rate == 0 else "sound"
        if compares != model.makes:
            raise UnsupportedPipeline(
                f"{model.name} makes {model.makes}, and embedder '{embedder.name}' is one of "
                f"{compares}; use an index and an embedder of {model.makes}"
            )
        if seconds is not None:
            require_whole(
                embedder, seconds, "the sound to be generated", "protected", LONGER_WINDOW
            )


def require_own_index(index: Any, fingerprint: Callable[[], str]) -> None:
    """Refuse an index that holds another model's training clips.

    A model with adapters is called "base+adapter+adapter". The index of its base is its own, and
    so is one of an adapter, and one of both together.

    Args:
        index: any training set; one that does not name its model is taken to be the model's own.
        fingerprint: computes the model's; it is called where the index names a model.

    Raises:
        IndexMismatch: the index is another model's.
    """
    for part in parts_of(index):
        names = _names(part)
        if names and not any(_within(name, own := fingerprint()) for name in names):
            name = getattr(part, "name", "")
            raise IndexMismatch(
                f"index {f'{name!r} ' if name else ''}holds the training clips of model "
                f"'{names[0]}', but this model is '{own}': nothing can be guarded or judged by the "
                "wrong clips; use this model's own index. If it was made of that model and knows "
                f"the same clips, say so with 'anechoic index cover INDEX {own}'; with a LoRA that "
                "was given as one ('--lora'), the index of its base model fits as it is"
            )


def weights_fingerprint(weights: nn.Module | Mapping[str, Tensor], settings: str = "") -> str:
    """A short name of weights, or of a module's, made of their names, shapes and signs."""
    if isinstance(weights, nn.Module):
        weights = getattr(weights, "_orig_mod", weights).state_dict()  # of torch.compile
    digest = hashlib.sha256(settings.encode())
    for name, value in sorted(weights.items()):
        signs = torch.signbit(value.flatten()[:1024]).cpu().numpy()
        digest.update(f"{name}{tuple(value.shape)}".encode() + signs.tobytes())
    return digest.hexdigest()[:16]


def names_any(name: str, indexes: Iterable[Any]) -> bool:
    """Whether one of some indexes says that it holds the clips of a model, or of an adapter."""
    said = (told for index in indexes for part in parts_of(index) for told in _names(part))
    return any(name in told.split(SEPARATOR) for told in said)


def _names(index: Any) -> tuple[str, ...]:
    """The models whose clips an index holds; () if it does not say."""
    model = getattr(index, "model", None)
    return (model, *getattr(index, "covers", ())) if model else ()


def _within(named: str, own: str) -> bool:
    """Whether all that an index names, a model and adapters or one of them, is in this model."""
    return set(named.split(SEPARATOR)) <= set(own.split(SEPARATOR))
