"""What a trainer can do for clips that stand in its set more than once.

Each is small and optional: it takes the ids of a batch's clips, and a clip that stands once is
trained as ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anechoic.index import TrainingIndex
from anechoic.index.duplicates import duplicates


@dataclass(frozen=True)
class Repeats:
    """How often clips stand in a training set, by their ids; one that is not named stands once.

    >>> repeats = Repeats({"a.wav": 4})
    >>> repeats.weights(["a.wav", "b.wav"])
    tensor([0.4000, 1.6000])
    """

    copies: Mapping[str, int]

    @classmethod
    def of(cls, index: TrainingIndex, above: float | None = None) -> Repeats:
        """Those of an index: a clip stands as often as its cluster of near duplicates is large.

        Args:
            index: of the training clips.
            above: see `anechoic.index.duplicates.duplicates`.
        """
        found = duplicates(index, above)
        return cls({clip.id: len(one.clips) for one in found for clip in one.clips})

    def counts(self, ids: Sequence[str]) -> Tensor:
        """How often each clip stands in the set, [b]."""
        return torch.tensor([float(self.copies.get(name, 1)) for name in ids])

    def weights(self, ids: Sequence[str]) -> Tensor:
        """Weights of a batch's losses, [b], with a mean of 1: one over the count of each clip, so
        that all copies of a clip together count as one clip does.

        Source: deduplication, Kandpal et al., 2022 (arXiv:2202.06539), as a weight.
        """
        weights = 1 / self.counts(ids)
        return weights / weights.mean()

    def dropped(self, ids: Sequence[str], generator: torch.Generator, most: float = 0.9) -> Tensor:
        """Which clips of a batch are trained without their caption this time, [b].

        A clip with n copies loses it with probability 1 - 1/n, but `most` at most: all copies
        together are seen under the caption as often as one clip is.

        Source: Somepalli et al., 2023 (arXiv:2305.20086), who replace captions at random.
        """
        share = (1 - 1 / self.counts(ids)).clamp_max(most)
        return torch.rand(len(ids), generator=generator) < share

    def noised(
        self, encoded: Tensor, ids: Sequence[str], generator: torch.Generator, level: float = 0.5
    ) -> Tensor:
        """Encoded captions [b, s, d] with Gaussian noise on those of repeated clips.

        Args:
            encoded: captions as the network gets them.
            ids: of their clips.
            generator: of the noise, on the CPU.
            level: of the noise, in units of each caption's own root mean square.

        Source: Somepalli et al., 2023 (arXiv:2305.20086), who add it to the captions of all clips.
        """
        noise = torch.randn(encoded.shape, generator=generator).to(encoded)
        rms = encoded.detach().square().mean((1, 2), keepdim=True).sqrt()
        repeated = (self.counts(ids) > 1).to(encoded)[:, None, None]
        return encoded + level * repeated * rms * noise
