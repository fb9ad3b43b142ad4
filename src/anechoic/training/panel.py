"""The fixed prompts that a training is watched by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from anechoic.errors import BadSetting
from anechoic.index import TrainingIndex


@dataclass(frozen=True)
class Panel:
    """Captions of training clips, prompts that nothing was trained on, and seeds for each.

    Args:
        training: captions of training clips, two or more: an interval needs several.
        ordinary: prompts of the kind that users will type; may be empty.
        seeds: each prompt is generated once with each.

    Raises:
        BadSetting: too few captions, no seed, an empty prompt, or one that stands twice.

    >>> len(Panel(("a dog barks", "rain"), seeds=(0, 1)))
    4
    """

    training: tuple[str, ...]
    ordinary: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        prompts = self.training + self.ordinary
        if len(self.training) < 2 or not self.seeds:
            raise BadSetting(
                f"expected two captions or more and a seed, got {len(self.training)} captions and "
                f"{len(self.seeds)} seeds; one caption says nothing about others: give more"
            )
        if not all(prompt.strip() for prompt in prompts):
            raise BadSetting("expected prompts with words in them, got an empty one; remove it")
        if len(set(prompts)) < len(prompts):
            twice = next(prompt for prompt in prompts if prompts.count(prompt) > 1)
            raise BadSetting(f"expected each prompt once, got {twice!r} twice; remove one")

    @classmethod
    def of(
        cls,
        index: TrainingIndex,
        ordinary: Sequence[str] = (),
        count: int = 24,
        seeds: Sequence[int] = (0,),
        seed: int = 0,
    ) -> Panel:
        """A panel of captions that are drawn from an index; the same for the same seed.

        Args:
            index: of the training clips.
            ordinary: as above; those that are captions of the index are refused.
            count: of captions; all, if there are fewer.
            seeds: as above.
            seed: of the draw.

        Raises:
            BadSetting: as above, or an ordinary prompt is a caption of the index.
        """
        captions = list(dict.fromkeys(text for text in index.captions if text.strip()))
        if known := sorted(set(captions) & set(ordinary)):
            raise BadSetting(
                f"expected ordinary prompts that nothing was trained on, and {known[0]!r} is a "
                f"caption of index '{index.name}'; remove it"
            )
        order = np.random.default_rng(seed).permutation(len(captions))[:count]
        return cls(tuple(captions[i] for i in sorted(order)), tuple(ordinary), tuple(seeds))

    def __len__(self) -> int:
        return len(self.seeds) * (len(self.training) + len(self.ordinary))

    def calls(self) -> list[tuple[str, bool, int]]:
        """Each generation: its prompt, whether that is a training caption, and its seed."""
        known = [(prompt, True) for prompt in self.training]
        prompts = known + [(prompt, False) for prompt in self.ordinary]
        return [(prompt, trained, seed) for prompt, trained in prompts for seed in self.seeds]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: list(value) for name, value in asdict(self).items()}
