"""The instruments: small models that memorize, besides the demo, to measure guards on.

No guard was tuned on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anechoic_lab.demo import assets
from anechoic_lab.demo.classifier import Labels
from anechoic_lab.demo.codec import MelCodec
from anechoic_lab.demo.corpus import Clip
from anechoic_lab.demo.train import Design, Phase, StableAudio, TrainingRecipe
from anechoic_lab.demo.watch import GUIDE
from anechoic_lab.instruments import drums, loops, lora
from anechoic_lab.instruments.flow import StableAudio3

Corpus = Callable[[Path, int], tuple[list[Clip], np.ndarray]]


@dataclass(frozen=True)
class Instrument:
    """How a model is made."""

    name: str
    about: str
    corpus: Corpus
    design: Design
    recipe: TrainingRecipe
    borrowed: bool = False  # its training clips are some of the demo's
    adapter: bool = False  # it is an adapter of the demo's model
    guide: str = GUIDE  # the descriptor of its index
    scale: float = 2.0
    steps: int = 50

    def labels(self, clips: list[Clip]) -> Labels:
        """What its clips are classified by."""
        families: dict[str, list[str]] = {}
        for clip in clips:
            if clip.instrument and clip.instrument not in families.setdefault(clip.family, []):
                families[clip.family].append(clip.instrument)
        return Labels(families, sorted({clip.register for clip in clips if clip.register}))


class FromTheDemo(StableAudio):
    """The demo's pipeline, with the demo's weights wherever the shapes and words agree."""

    def pipeline(self, captions: list[str], codec: MelCodec, recipe: TrainingRecipe) -> Any:
        pipe, demo = super().pipeline(captions, codec, recipe), assets.pipeline()
        for ours, theirs in zip(self.parts(pipe), self.parts(demo), strict=True):
            weights = ours.state_dict()
            for name, value in theirs.state_dict().items():
                if value.shape == weights[name].shape:
                    weights[name].copy_(value)
        words, known = pipe.tokenizer.get_vocab(), demo.tokenizer.get_vocab()
        table = pipe.text_encoder.get_input_embeddings().weight
        with torch.no_grad():
            for word in words.keys() & known.keys():
                table[words[word]] = demo.text_encoder.get_input_embeddings().weight[known[word]]
        return pipe


# of the demo's corpus: one instrument for each family, every second pitch
FLOW_INSTRUMENTS = (
    "electric piano", "vibraphone", "accordion", "nylon guitar", "synth bass", "violin", "choir",
    "trumpet", "clarinet", "flute",
)  # fmt: skip
FLOW_RECORDINGS = 48
FLOW_REPEATS = (64, 32, 16, 64, 32, 8, 64, 16, 32, 64, 4, 32)


def flow_corpus(folder: Path, seed: int) -> tuple[list[Clip], np.ndarray]:
    """A part of the demo's training clips, as they ship; `folder` is not needed.

    The demo's duplicated clips are repeated 4 to 64 times. One take of each ordinary note is held
    out, so are the same instruments' other pitches, and as many recordings as are trained on.
    """
    clips, sound = assets.training_set()
    rng = np.random.default_rng(seed)
    duplicated = [clip for clip in clips if clip.copies > 1]
    repeats = {clip.id: FLOW_REPEATS[i % len(FLOW_REPEATS)] for i, clip in enumerate(duplicated)}
    memorized = {clip.caption for clip in duplicated}
    found = sorted({c.caption for c in clips if c.kind == "recording"} - memorized)
    drawn = [found[i] for i in rng.permutation(len(found))]
    trained, held = set(drawn[:FLOW_RECORDINGS]), set(drawn[FLOW_RECORDINGS:][:FLOW_RECORDINGS])
    last = {clip.caption: clip.id for clip in clips}
    out, rows = [], []
    for row, clip in enumerate(clips):
        split = ""
        if clip.caption in memorized or clip.caption in trained:
            split = "train"
        elif clip.caption in held:
            split = "held-out recording"
        elif clip.instrument in FLOW_INSTRUMENTS and clip.midi % 2:
            split = "held-out caption"
        elif clip.instrument in FLOW_INSTRUMENTS:
            split = "held-out take" if clip.id == last[clip.caption] else "train"
        if split:
            out.append(replace(clip, split=split, copies=repeats.get(clip.id, 1)))
            rows.append(row)
    return out, sound[rows].numpy()


INSTRUMENTS = {
    made.name: made
    for made in (
        Instrument(
            "drums",
            "Drum kits and sound effects; Stable Audio, v-prediction.",
            drums.build,
            FromTheDemo(),
            TrainingRecipe((Phase(3_600, 8e-4, shift=10, tilt=0.1),)),
        ),
        Instrument(
            "loops",
            "Phrases, drum loops and recordings of 4.2 s at 22.05 kHz; Stable Audio, v-prediction.",
            loops.build,
            FromTheDemo(tokens=loops.TOKENS, codec_settings=loops.CODEC),
            TrainingRecipe((Phase(9_000, 1e-3, shift=6, tilt=0.1, bfloat16=True),)),
            guide=f"magmel:seconds={loops.LENGTH / loops.RATE:.2f}",
        ),
        Instrument(
            "flow",
            "Notes and recordings; Stable Audio 3, flow matching.",
            flow_corpus,
            StableAudio3(),
            TrainingRecipe((Phase(4_000, 1e-3, shift=10, tilt=0.1),), t_low=0.08),
            borrowed=True,
        ),
        Instrument(
            "lora",
            "The demo's model, fine-tuned by an adapter on 20 other clips.",
            lora.build,
            lora.LoraOfTheDemo(),
            TrainingRecipe((Phase(600, 2e-3),)),
            adapter=True,
        ),
    )
}
