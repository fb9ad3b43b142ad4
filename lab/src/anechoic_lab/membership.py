"""Whether a catalogue of sound was in a model's training set, from the model alone.

    python -m anechoic_lab.membership catalogue held-out --model demo

One clip says next to nothing: a caption helps to denoise a clip that the model has seen only a
little more than another of its kind. Over many clips the differences add up. So a catalogue is
compared as a whole with held-out clips that match it, such as later recordings by the same artist
that no training set can hold.

Source: dataset inference, Maini et al., 2021 (arXiv:2104.10706); the scores are our own choice.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from anechoic.audit.screen import starting_at
from anechoic.diffusers.generate import generate
from anechoic.diffusers.latents import LatentEncoder
from anechoic.diffusers.loading import load_pipeline
from anechoic.errors import BadSetting
from anechoic.guidance.base import Guidance
from anechoic.guidance.step import Condition, Step
from anechoic.index import Sound
from anechoic.index.sources.opening import open_source
from anechoic.index.sources.protocol import Unit
from anechoic.models import find, model_place

LEVELS = (-4.0, -2.0, 0.0, 2.0, 4.0)  # log-SNR
LEAST = 20  # clips on either side
BATCH = 8


@dataclass(frozen=True)
class Membership:
    """The comparison of a catalogue with held-out clips."""

    p_value: float  # one-sided, Mann-Whitney: how often clips of one kind differ as much
    auc: (
        float  # how often a clip of the catalogue scores above a held-out one; 0.5: as often as not
    )
    catalogue: int  # clips
    held_out: int

    def to_dict(self) -> dict[str, Any]:
        """The comparison for JSON."""
        return dict(vars(self))


class _Enough(Exception):
    """Stops a pipeline after its first evaluation."""


def scores(
    pipe: Any,
    sounds: Sequence[Sound],
    *,
    levels: Sequence[float] = LEVELS,
    seeds: Sequence[int] = range(2),
    done: Callable[[int], None] = lambda clips: None,
) -> Tensor:
    """How much its caption helps a model to denoise each clip, [n]; higher: more as if seen.

        s = mean_{level, seed} log(|x0(x) - z|^2 / |x0(x, caption) - z|^2)

    where x = alpha z + sigma eps, and z are the latents of the clip. How hard the clip itself is to
    denoise cancels.

    Args:
        pipe: a diffusers pipeline of Stable Audio's kind.
        sounds: clips with captions; what is longer than the model's sound is cut off.
        levels: log signal-to-noise ratios at which clips are noised.
        seeds: of the noise.
        done: called with the number of clips after each batch.

    Raises:
        UnsupportedPipeline: the model's clips cannot be encoded, or not noised at a level.
    """
    encoder = LatentEncoder(pipe)
    found = []
    for first in range(0, len(sounds), BATCH):
        batch = sounds[first : first + BATCH]
        latents = torch.cat([encoder(one.wav[None], one.sample_rate) for one in batch])
        gains = [_gain(pipe, batch, latents, level, seed) for level in levels for seed in seeds]
        found.append(torch.stack(gains).mean(0))
        done(len(batch))
    return torch.cat(found)


def _gain(pipe: Any, sounds: Sequence[Sound], latents: Tensor, level: float, seed: int) -> Tensor:
    """The score of each clip at one level with one noise, [b]."""
    generators = [torch.Generator().manual_seed(seed) for _ in sounds]  # the same in any batch
    noise = torch.stack([torch.randn(latents.shape[1:], generator=one) for one in generators])
    probe = _Probe(latents, noise)
    arguments = {"guidance_scale": 2.0, "output_type": "latent"}
    try:
        with torch.no_grad(), starting_at(pipe, level):
            generate(pipe, [one.caption for one in sounds], seed, arguments, probe)
    except _Enough:
        pass
    return probe.found[0]


@dataclass(frozen=True, eq=False)
class _Probe(Guidance):
    """Denoises clips in place of the pipeline's noise, and stops it."""

    latents: Tensor
    noise: Tensor
    found: list[Tensor] = field(default_factory=list)

    def __call__(self, step: Step) -> Tensor:
        x = step.noise.alpha * self.latents + step.noise.sigma * self.noise.to(self.latents)
        conditions: tuple[Condition, Condition] = ("cond", "uncond")
        with_caption, without = (
            (step.denoise(x.to(step.x), condition).to(x) - self.latents).flatten(1).norm(dim=1)
            for condition in conditions
        )
        self.found.append(2 * (without / with_caption).double().log().cpu())
        raise _Enough


def compare(catalogue: Tensor, held_out: Tensor) -> Membership:
    """Whether the scores of a catalogue are above those of held-out clips.

    Raises:
        BadSetting: under 20 clips on either side.

    >>> compare(torch.arange(40.0) + 30, torch.arange(40.0)).p_value < 1e-3
    True
    """
    from scipy.stats import mannwhitneyu

    if min(len(catalogue), len(held_out)) < LEAST:
        raise BadSetting(
            f"expected {LEAST} clips or more of the catalogue, and as many held-out ones, got "
            f"{len(catalogue)} and {len(held_out)}; a test of so few says nothing: add clips"
        )
    test = mannwhitneyu(catalogue.numpy(), held_out.numpy(), alternative="greater")
    share = float(test.statistic) / (len(catalogue) * len(held_out))
    return Membership(float(test.pvalue), share, len(catalogue), len(held_out))


def read(folder: str) -> list[Sound]:
    """The clips of a folder with captions, or of any other source of sounds.

    Raises:
        BadSetting: a source of embeddings.
        BadAudio, BadCaptions: what is wrong with the clips.
    """
    sounds = []
    for unit in open_source(folder).units():
        if not isinstance(unit, Unit):
            raise BadSetting(f"expected a folder of sounds, got embeddings in '{folder}'; name one")
        sounds += [Sound(one.id, one.caption, *one.read()) for one in unit.items()]
    return sounds


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("catalogue", help="folder of sounds with captions")
    parser.add_argument("held_out", help="the same, of clips that no training set can hold")
    parser.add_argument("--model", required=True, help="as for 'anechoic generate'")
    parser.add_argument("--seeds", type=int, default=2, help="noises of each clip at each level")
    parser.add_argument("--device")
    chosen = parser.parse_args()
    model_place((own := find(chosen.model)).pipeline)
    catalogue, held_out = read(chosen.catalogue), read(chosen.held_out)
    pipe = load_pipeline(own.pipeline, chosen.device)
    pipe.set_progress_bar_config(disable=True)
    both = [scores(pipe, sounds, seeds=range(chosen.seeds)) for sounds in (catalogue, held_out)]
    found = compare(*both)
    print(
        f"p = {found.p_value:.2g}: in {found.auc:.0%} of pairs the clip of the catalogue "
        f"({found.catalogue} clips) scores above the held-out one ({found.held_out})"
    )


if __name__ == "__main__":
    main()
