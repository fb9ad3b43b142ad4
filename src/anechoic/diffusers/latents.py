"""Training clips in the space of a network: encoded by the model's own codec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from julius.resample import resample_frac
from torch import Tensor

from anechoic.diffusers.adapters.adapter import CallRecorder
from anechoic.diffusers.connection import Connection
from anechoic.diffusers.pipelines import adapter_for
from anechoic.errors import UnsupportedPipeline


@dataclass(frozen=True, eq=False)
class LatentEncoder:
    """Encodes sound as the latents that a pipeline's network makes.

    Sound is padded with silence to the length of the model's own, and cut to it.

    Args:
        pipe: a pipeline from the table in `anechoic.diffusers.adapters`.

    Raises:
        UnsupportedPipeline: its latents have another length for another length of sound, or are of
            images.
    """

    pipe: Any

    def __post_init__(self) -> None:
        sound = self._connection.adapter.sound
        if sound is None or sound.encode is None:
            raise UnsupportedPipeline(
                f"expected a model whose latents of sound have one length, such as Stable Audio "
                f"Open, got {type(self.pipe).__name__}; guard it with a method that compares sound"
            )

    @property
    def _connection(self) -> Connection:
        return adapter_for(self.pipe)

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        return self._connection.sample_rate

    @property
    def seconds(self) -> float:
        """The length of the model's sound."""
        assert self._connection.adapter.sound is not None
        return self._connection.adapter.sound.longest_s(self.pipe)

    @property
    def codec(self) -> str:
        """The fingerprint of the codec."""
        return self._connection.codec_fingerprint()

    @torch.no_grad()
    def __call__(self, wav: Tensor, sample_rate: int) -> Tensor:
        """Sound [b, c, t] to latents [b, *latent], float32."""
        sound = self._connection.adapter.sound
        assert sound is not None
        assert sound.encode is not None
        if sample_rate != self.sample_rate:
            wav = resample_frac(wav, sample_rate, self.sample_rate)
        length = round(self.seconds * self.sample_rate)
        wav = F.pad(wav, (0, length - wav.shape[-1]))  # a negative pad cuts
        return sound.encode(self.pipe, wav.to(self.pipe.device))


@torch.no_grad()
def decode(pipe: Any, latents: Tensor, seconds: float) -> Tensor:
    """Latents [b, *latent] that a pipeline returned to its sound [b, c, t], in float32.

    Args:
        pipe: a pipeline for which there is a `LatentEncoder`.
        latents: on any device.
        seconds: of sound, as the pipeline was asked for.
    """
    asked = {"audio_start_in_s": 0.0, "audio_end_in_s": seconds}
    recorder = CallRecorder(pipe, {}, {"check_inputs": asked})
    return adapter_for(pipe).adapter.decode(recorder, latents.to(pipe.device))
