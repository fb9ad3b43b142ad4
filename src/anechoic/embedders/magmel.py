"""MagMel: a spectral descriptor without weights that faint noise does not move."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from anechoic.embedders.frontend import MelBank, power_spectrum, prepare
from anechoic.errors import BadSetting, UnknownEmbedder
from anechoic.types import Embedder

SAMPLE_RATE, BANDS, SIZE, HOP = 16_000, 64, 1024, 256
MEL = MelBank(BANDS, SIZE, SAMPLE_RATE, 40.0, 7600.0, scale="slaney", norm="slaney")
SECONDS = 1.024
LONGEST_S = 3600  # of a window
# Energy below this is flat, so that the gradient of the square root stays finite: 100 dB or more
# under the energy of any sound at full scale.
FLOOR = 1e-10


class MagMel(Embedder):
    """The unit vector of sqrt(mel energy), blurred over three frames, of which every other counts.

        e = M |STFT(wav)|^2,    emb = unit(blur(sqrt(e)))

    A logarithm lifts faint noise to the level of the sound, so a guard that follows log mel can
    lower its similarity with a veil of noise while the copy remains. Under the square root the loud
    parts decide, and only another sound is far away: a copy with noise at 20 dB has a cosine of
    .999, against .63 for log mel.

    The window is fixed, from the start of the sound: shorter sound is padded with silence, longer
    sound is cut. Cut long sound into windows first. Silence has an embedding too, the flat one.

    Args:
        source: the settings as text, "seconds=2.0", as in a name.
        seconds: length of the window.

    Raises:
        UnknownEmbedder: `source` does not have that form.
        BadSetting: a window shorter than one frame of the spectrum, 0.064 s.

    Source: own, by the measurements above; mel filters by Slaney, Auditory Toolbox, 1998.

    >>> MagMel(seconds=2.0).name
    'magmel:seconds=2.0'
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, source: str = "", *, seconds: float = SECONDS) -> None:
        self.seconds = _parse(source) if source else float(seconds)
        if not SIZE / self.sample_rate <= self.seconds <= LONGEST_S:
            raise BadSetting(
                f"expected a magmel window of {SIZE / self.sample_rate} to {LONGEST_S} s, got "
                f"{self.seconds}; give another, or leave it out for {SECONDS}"
            )
        self._samples = round(self.seconds * self.sample_rate)
        self._frames = self._samples // HOP
        self.dim = BANDS * ((self._frames + 1) // 2)
        self.name = "magmel" if self.seconds == SECONDS else f"magmel:seconds={self.seconds}"

    def __call__(self, wav: Tensor, sample_rate: int) -> Tensor:
        """Embed clips [b, channels, t]: unit vectors [b, dim], bands by frames."""
        mono = prepare(wav, sample_rate, self.sample_rate)
        mono = F.pad(mono, (0, self._samples - mono.shape[-1]))  # a negative pad cuts
        power = power_spectrum(mono, SIZE, HOP, "reflect")[..., : self._frames]
        magnitude = (MEL.filters(power) @ power).clamp_min(FLOOR).sqrt()
        return F.normalize(F.avg_pool1d(magnitude, 3, stride=2, padding=1).flatten(1), dim=1)


def _parse(source: str) -> float:
    key, _, value = source.partition("=")
    try:
        if key == "seconds":
            return float(value)
    except ValueError:
        pass
    raise UnknownEmbedder(
        f"expected 'magmel' or 'magmel:seconds=NUMBER', got 'magmel:{source}'; the length of the "
        "window is all that can be set"
    )
