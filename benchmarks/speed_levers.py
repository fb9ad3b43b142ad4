"""Levers that are no setting of a guard, switched off: a codec's own, and those that change no
result and so have no switch (docs/project/decisions/0006)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from speed_subjects import Subject
from torch import nn

from anechoic.diffusers import connection
from anechoic.diffusers.adapters import stable_audio
from anechoic.guidance.similarity import SimilarityGradient

Off = Callable[[Subject], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Lever:
    """A lever, how to do without it, and on which subjects there is one."""

    name: str
    off: Off
    fits: Callable[[Subject], bool] = lambda subject: True


@contextmanager
def _whole_decode(subject: Subject) -> Iterator[None]:
    """What is only compared is decoded as what is heard."""
    vae = subject.pipe.vae
    own = vae.config.preview_iterations
    vae.register_to_config(preview_iterations=vae.config.iterations)
    try:
        yield
    finally:
        vae.register_to_config(preview_iterations=own)


def _has_preview(subject: Subject) -> bool:
    return hasattr(subject.pipe.vae, "preview")


def _is_oobleck(subject: Subject) -> bool:
    return type(subject.pipe.vae).__name__ == "AutoencoderOobleck"


def _captions_anew(subject: Subject) -> AbstractContextManager[Any]:
    """Each caption is encoded each time that it is the nearest clip's."""
    once = connection.Connection.encode

    def encode(self: connection.Connection, *args: Any) -> Any:
        self._encoded.clear()
        return once(self, *args)

    return patch.object(connection.Connection, "encode", encode)


def _decoded_again(subject: Subject) -> AbstractContextManager[Any]:
    """What was decoded to compare does not serve for the gradient."""
    embed = SimilarityGradient.embed
    gradient_of = SimilarityGradient.gradient_of

    def compare(self: SimilarityGradient, step: Any, keep: bool = False) -> Any:
        return embed(self, step, False)

    def gradient(self: SimilarityGradient, measure: Any, step: Any, embedded: Any = None) -> Any:
        with patch.object(SimilarityGradient, "embed", embed):
            return gradient_of(self, measure, step)

    return patch.multiple(SimilarityGradient, embed=compare, gradient_of=gradient)


def _all_decoded(subject: Subject) -> AbstractContextManager[Any]:
    """All latents are decoded, and cut to the requested seconds then."""
    return patch.object(stable_audio, "span", lambda vae, start, end, length: (0, length))


def _all_kept(subject: Subject) -> AbstractContextManager[Any]:
    """A decoder keeps what autograd keeps."""
    return patch.object(connection, "memory_efficient", lambda modules: [])


@contextmanager
def _weights_too(subject: Subject) -> Iterator[None]:
    """Weights want a gradient, as `from_pretrained` leaves them; then nothing can be left out."""
    parts = [part for part in subject.pipe.components.values() if isinstance(part, nn.Module)]
    weights = [w for part in parts for w in part.parameters() if w.is_floating_point()]
    changed = [weight for weight in weights if not weight.requires_grad]
    with patch.object(connection.Connection, "frozen", lambda self: nullcontext()):
        for weight in changed:
            weight.requires_grad_(True)
        try:
            yield
        finally:
            for weight in changed:
                weight.requires_grad_(False)


CHEAPER = Lever("the cheaper decode", _whole_decode, _has_preview)
EXACT = (
    Lever("captions encoded once", _captions_anew),
    Lever("the comparison's decode used for the gradient", _decoded_again),
    Lever("the requested seconds alone decoded", _all_decoded, _is_oobleck),
    Lever("a decoder that stores two fifths", _all_kept, _is_oobleck),
    Lever("weights frozen (and so a decoder that stores two fifths)", _weights_too),
)
