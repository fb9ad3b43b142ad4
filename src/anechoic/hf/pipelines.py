"""The table of pipelines: how each calls its network and encodes its prompts.

The order of the two halves, what stands in the unconditional one and how a caption is encoded
differ between pipelines, and a wrong guess runs without an error. So: an explicit table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from anechoic.errors import GuardError, UnsupportedPipeline


class Adapter(Protocol):
    """What the guard needs to know of a pipeline."""

    network: nn.Module
    sample_rate: int

    def attach(self, begin: Callable[[list[str] | None], None]) -> None:
        """Listen to the pipeline; call `begin` when it starts a generation, with its prompts,
        or with None where it is given encoded ones."""

    def detach(self) -> None:
        """Leave the pipeline as it was."""

    def condition(self, kwargs: Mapping[str, Any], half: str) -> dict[str, Any]:
        """The network's keyword arguments for one half, "cond" or "uncond"."""
        ...

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Texts to encoded prompts [b, s, d], as the pipeline itself does it."""
        ...

    def encoded(self, kwargs: Mapping[str, Any]) -> Tensor:
        """The encoded prompt of the conditional half, [b, s, d]; zeros where it has no text."""
        ...

    def replaced(self, kwargs: Mapping[str, Any], encoded: Tensor) -> dict[str, Any]:
        """The keyword arguments of both halves with another encoded prompt in the conditional."""
        ...

    def words(self) -> Sequence[str]:
        """Whole words that the pipeline's tokenizer has a token for."""
        ...

    def decode(self, x0: Tensor) -> Tensor:
        """Latents to sound [b, c, t], cut to the requested seconds."""
        ...


class StableAudio:
    """`StableAudioPipeline`: [uncond, cond]; the unconditional half attends to zeros."""

    def __init__(self, pipe: Any):
        self.pipe = pipe
        self.network: nn.Module = pipe.transformer
        self.sample_rate: int = pipe.vae.config.sampling_rate
        self._seconds: tuple[float, float] | None = None
        self._cache: dict[str, Tensor] = {}
        self._device: torch.device | None = None

    def attach(self, begin: Callable[[list[str] | None], None]) -> None:
        pipe, encode_prompt, encode_duration = (
            self.pipe,
            self.pipe.encode_prompt,
            self.pipe.encode_duration,
        )

        def prompt(prompt, device, do_classifier_free_guidance, *args, **kwargs):
            if not do_classifier_free_guidance:
                raise GuardError(
                    "the pipeline was called with guidance_scale <= 1, so there is no "
                    "unconditional half to guide with; call it with guidance_scale=7.0 (any value "
                    "above 1: inside the guard the guidance owns the scale)"
                )
            begin([prompt] if isinstance(prompt, str) else prompt)
            self._device = device
            self._cache.clear()
            return encode_prompt(prompt, device, do_classifier_free_guidance, *args, **kwargs)

        def duration(start, end, *args, **kwargs):
            self._seconds = (float(start), float(end))
            return encode_duration(start, end, *args, **kwargs)

        self._encode_prompt = encode_prompt
        pipe.encode_prompt, pipe.encode_duration = prompt, duration

    def detach(self) -> None:
        del self.pipe.encode_prompt, self.pipe.encode_duration  # the class's own show again

    def condition(self, kwargs: Mapping[str, Any], half: str) -> dict[str, Any]:
        rows = len(kwargs["encoder_hidden_states"]) // 2
        which = slice(rows, None) if half == "cond" else slice(None, rows)
        return {
            **kwargs,
            "encoder_hidden_states": kwargs["encoder_hidden_states"][which],
            "global_hidden_states": kwargs["global_hidden_states"][which],
        }

    def encode(self, texts: Sequence[str]) -> Tensor:
        missing = [text for text in dict.fromkeys(texts) if text not in self._cache]
        if missing:
            with torch.no_grad():
                encoded = self._encode_prompt(missing, self._device, False)
            self._cache.update(zip(missing, encoded, strict=True))
        return torch.stack([self._cache[text] for text in texts])

    # the last two tokens are the sample's own start and end in seconds

    def encoded(self, kwargs: Mapping[str, Any]) -> Tensor:
        return self.condition(kwargs, "cond")["encoder_hidden_states"][:, :-2]

    def replaced(self, kwargs: Mapping[str, Any], encoded: Tensor) -> dict[str, Any]:
        uncond, cond = kwargs["encoder_hidden_states"].chunk(2)
        cond = torch.cat([encoded.to(cond), cond[:, -2:]], 1)
        return {**kwargs, "encoder_hidden_states": torch.cat([uncond, cond])}

    def words(self) -> Sequence[str]:
        pieces = self.pipe.tokenizer.get_vocab()
        whole = (piece[1:] for piece in pieces if piece.startswith("\u2581"))
        return sorted(word for word in whole if word.isalpha())

    def decode(self, x0: Tensor) -> Tensor:
        if self._seconds is None:
            raise GuardError("a duration was expected before the first step, got none")
        start, end = (int(s * self.sample_rate) for s in self._seconds)
        return self.pipe.vae.decode(x0.to(self.pipe.vae.dtype)).sample[:, :, start:end].float()


ADAPTERS: dict[str, Callable[[Any], Adapter]] = {"StableAudioPipeline": StableAudio}


def adapter_for(pipe: Any) -> Adapter:
    """The adapter of this pipeline.

    Raises:
        UnsupportedPipeline: its class is not in the table.
    """
    for cls in type(pipe).__mro__:
        if cls.__name__ in ADAPTERS:
            return ADAPTERS[cls.__name__](pipe)
    raise UnsupportedPipeline(
        f"one of the pipelines {', '.join(ADAPTERS)} was expected, got {type(pipe).__name__}"
    )


def fingerprint(pipe: Any) -> str:
    """A short name of the network's weights, the same in every number format.

    It is made of the signs of the weights, which casting keeps.

    An index can carry the fingerprint of the model whose training set it is.
    """
    digest = hashlib.sha256()
    for name, value in sorted(adapter_for(pipe).network.state_dict().items()):
        signs = torch.signbit(value.flatten()[:1024]).cpu().numpy()
        digest.update(f"{name}{tuple(value.shape)}".encode() + signs.tobytes())
    return digest.hexdigest()[:16]
