"""The demo model's codec: log-mel latents, decoded by Griffin-Lim.

With a phase-free latent, a model of three million parameters learns to follow its prompts within
an hour; with a phase-sensitive one it only copies (docs/project/decisions/0001-demo-model.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from anechoic.embedders.frontend import MelBank

LOUDEST = 6.0  # log mel magnitude; a sine at full scale has 4.9 to 5.5


@dataclass
class Decoded:
    """The return type of `decode` in diffusers' autoencoders."""

    sample: Tensor


@dataclass
class LatentDistribution:
    """The distribution of a codec without noise: a point."""

    mean: Tensor

    def mode(self) -> Tensor:
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.mean


@dataclass
class Encoded:
    """The return type of `encode` in diffusers' autoencoders."""

    latent_dist: LatentDistribution


def mel_filters(bands: int, bins: int, sample_rate: int, low_hz: float, high_hz: float) -> Tensor:
    """Triangular filters [bands, bins], equally wide on the mel scale, each with sum 1."""
    size = 2 * (bins - 1)
    bank = torch.from_numpy(
        MelBank(bands, size, sample_rate, low_hz, high_hz, "slaney", "slaney").weights()
    ).float()
    return bank / bank.sum(1, keepdim=True).clamp_min(1e-9)


# mypy skips diffusers, whose lazy modules it cannot follow
class MelCodec(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Log-mel spectrogram as the latent of a latent diffusion model.

    Replaces `AutoencoderOobleck` in `StableAudioPipeline`. A token holds two frames. `decode` is
    deterministic (Griffin-Lim with momentum from a fixed phase) and differentiable: the gradient
    flows through the magnitude, with the phase as a constant. `preview` uses fewer iterations, for
    sound that is only compared: guards call it at each step.

    Source: Griffin and Lim, 1984; Perraudin et al., 2013 (momentum).
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        sampling_rate: int = 16_000,
        audio_channels: int = 1,
        bands: int = 64,
        frame: int = 1024,
        hop: int = 256,
        frames_per_token: int = 2,
        floor: float = 1e-3,
        mean: float = 0.0,
        std: float = 1.0,
        updates: int = 10,
        iterations: int = 12,
        momentum: float = 0.99,
        preview_iterations: int = 2,
        latent_dim: int = 128,
    ):
        super().__init__()
        # StableAudioPipeline reads `hop_length`; StableAudio3Pipeline reads the other two
        self.hop_length = self.downsampling_ratio = hop * frames_per_token
        self.register_to_config(latent_dim=bands * frames_per_token)
        filters = mel_filters(bands, frame // 2 + 1, sampling_rate, 40.0, 0.475 * sampling_rate)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("inverse", torch.linalg.pinv(filters), persistent=False)
        self.register_buffer("window", torch.hann_window(frame), persistent=False)
        # diffusers reads a module's dtype and device from its parameters, so there has to be one
        self.scale = torch.nn.Parameter(torch.ones(1), requires_grad=False)

    def mel(self, wav: Tensor) -> Tensor:
        """Log mel magnitudes of mono audio: [b, t] -> [b, bands, frames]."""
        config = self.config
        spectrum = torch.stft(
            wav, config.frame, config.hop, window=self.window.to(wav.dtype), return_complex=True
        )
        magnitude = spectrum.abs()[..., : wav.shape[-1] // config.hop]
        return torch.log(self.filters @ magnitude + config.floor)

    def encode(self, wav: Tensor, return_dict: bool = True) -> Encoded:
        """Audio [b, 1, t] to latents [b, bands * frames_per_token, t / hop_length]."""
        config = self.config
        mel = (self.mel(wav.mean(1)) - config.mean) / config.std
        return Encoded(LatentDistribution(self.pack(mel)))

    def pack(self, mel: Tensor) -> Tensor:
        """Normalised log mel [b, bands, frames] as latents, `frames_per_token` frames a token."""
        b, bands, frames = mel.shape
        per_token = self.config.frames_per_token
        pairs = mel.reshape(b, bands, frames // per_token, per_token)
        return pairs.permute(0, 1, 3, 2).flatten(1, 2)

    def log_mel(self, latents: Tensor) -> Tensor:
        """Latents to log mel magnitudes [b, bands, frames], without decoding to sound."""
        config = self.config
        b, _, tokens = latents.shape
        pairs = latents.reshape(b, config.bands, config.frames_per_token, tokens)
        mel = pairs.permute(0, 1, 3, 2).reshape(b, config.bands, -1)
        scaled: Tensor = mel * config.std + config.mean
        return scaled

    def decode(self, latents: Tensor, return_dict: bool = True) -> Decoded:
        """Latents [b, channels, tokens] to audio [b, 1, t]."""
        return self._decode(latents, self.config.iterations)

    def preview(self, latents: Tensor) -> Decoded:
        """`decode` with `preview_iterations`, for comparing.

        docs/evidence/speed.md shows how near it is.
        """
        return self._decode(latents, self.config.preview_iterations)

    def _decode(self, latents: Tensor, iterations: int) -> Decoded:
        # an estimate in the middle of a run can lie far outside the range of real sound
        log_mel = self.log_mel(latents).float().clamp_max(LOUDEST)
        mel = (log_mel.exp() - self.config.floor).clamp_min(0.0)
        wav = self._griffin_lim(self._linear_magnitude(mel), iterations)
        return Decoded(wav[:, None].to(latents.dtype))

    def _linear_magnitude(self, mel: Tensor) -> Tensor:
        """The non-negative linear spectrum that explains the mel bands (Lee and Seung, 1999).

        The clamped pseudo-inverse alone leaves the round trip at a centred mel correlation of
        0.971; 10 multiplicative updates bring it to 0.986, and 20 to 0.989.
        """
        magnitude: Tensor = (self.inverse @ mel).clamp_min(1e-5)
        target = self.filters.T @ mel
        for _ in range(self.config.updates):
            explained = self.filters.T @ (self.filters @ magnitude)
            magnitude = magnitude * target / (explained + 1e-9)
        return magnitude

    def _griffin_lim(self, magnitude: Tensor, iterations: int) -> Tensor:
        config = self.config
        length = magnitude.shape[-1] * config.hop
        # the centred transform has one more frame than the latent: repeat the last one
        magnitude = torch.cat([magnitude, magnitude[..., -1:]], -1)
        phase = torch.rand(
            magnitude.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float32
        ).to(magnitude.device)
        angle = torch.polar(torch.ones_like(phase), 2 * torch.pi * phase).expand(magnitude.shape)
        arguments = {"n_fft": config.frame, "hop_length": config.hop, "window": self.window}
        with torch.no_grad():  # for the gradient, the phase is a constant
            previous = torch.zeros_like(angle)
            for _ in range(iterations):
                wav = torch.istft(magnitude * angle, length=length, **arguments)
                rebuilt = torch.stft(wav, return_complex=True, **arguments)
                angle = rebuilt - config.momentum / (1 + config.momentum) * previous
                previous = rebuilt
                angle = angle / angle.abs().clamp_min(1e-9)
        return torch.istft(magnitude * angle, length=length, **arguments)


# `save_pretrained` records this: diffusers looks classes up at the top level of a package
MelCodec.__module__ = "anechoic_lab"
