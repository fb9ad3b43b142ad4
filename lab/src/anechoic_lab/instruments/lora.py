"""The fine-tuned case: a LoRA of the demo's model on 20 clips that the demo was not trained on.

Notes whose captions the demo never saw, and recordings that it never heard, are repeated 4 to 64
times, so that memorization has degrees. All other held-out clips of the demo stay held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anechoic.diffusers.lora_files import read_adapter
from anechoic.embedders import embedder
from anechoic.storage import whole_folder
from anechoic_lab.demo import assets, corpus
from anechoic_lab.demo.build import index_of, round_trip, write_calibration
from anechoic_lab.demo.codec import MelCodec
from anechoic_lab.demo.corpus import Clip
from anechoic_lab.demo.train import Loss, StableAudio, TrainingRecipe
from anechoic_lab.demo.watch import GUIDE

RANK = 16
NOTES, RECORDINGS = 12, 8
REPEATS = (64, 32, 16, 8, 4)


def build(folder: Path, seed: int = 0) -> tuple[list[Clip], np.ndarray]:
    """The demo's held-out clips, of which 20 are trained on: one take of each of their captions.

    Returns:
        The clips and their waveforms, float32 [n, corpus.LENGTH] at corpus.SAMPLE_RATE.

    Raises:
        BadSetting: as `corpus.build`.
    """
    clips, wavs = corpus.build(folder, seed)
    rows = [row for row, clip in enumerate(clips) if clip.split != "train"]
    return chosen([clips[row] for row in rows], seed), wavs[rows]


def chosen(held: Sequence[Clip], seed: int) -> list[Clip]:
    """The clips with those to train on marked, in their order."""
    rng = np.random.default_rng(seed)
    repeats: dict[str, int] = {}
    for split, count in (("held-out caption", NOTES), ("held-out recording", RECORDINGS)):
        first = {clip.caption: clip.id for clip in reversed(held) if clip.split == split}
        ids = sorted(first.values())
        for row in rng.permutation(len(ids))[:count].tolist():
            repeats[ids[row]] = REPEATS[len(repeats) % len(REPEATS)]
    return [
        replace(clip, split="train", copies=repeats[clip.id]) if clip.id in repeats else clip
        for clip in held
    ]


class LoraOfTheDemo(StableAudio):
    """The demo's pipeline with its own codec, of which only an adapter is trained."""

    def codec(self, wavs: Tensor) -> MelCodec:
        codec: MelCodec = assets.pipeline().vae
        return codec

    def pipeline(self, captions: list[str], codec: MelCodec, recipe: TrainingRecipe) -> Any:
        pipe = assets.pipeline()
        torch.manual_seed(recipe.seed)  # peft draws from the global generator
        _adapted(pipe.transformer)
        return pipe

    def parts(self, pipe: Any) -> list[nn.Module]:
        return [pipe.transformer]

    def loss(self, pipe: Any, captions: list[str], recipe: TrainingRecipe) -> Loss:
        for name, weight in pipe.transformer.named_parameters():
            weight.requires_grad_(".lora_" in name)  # a phase leaves all weights to be trained
        return super().loss(pipe, captions, recipe)


def _adapted(network: nn.Module) -> Any:
    """The network, with an adapter put into its linear layers, which alone is trained."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear")
    return get_peft_model(network, settings)


def save(network: nn.Module, folder: Path) -> None:
    """Write the adapter of a trained network in half precision, as peft does."""
    bare = _adapted(assets.pipeline().transformer)
    bare.get_base_model().load_state_dict(network.state_dict())
    bare.half().save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # a form for a model card, not filled in
    for file in folder.iterdir():
        file.chmod(0o644)


def write(
    out: Path, pipe: Any, clips: Sequence[Clip], wavs: np.ndarray, recipe: TrainingRecipe
) -> None:
    """Write a trained adapter with the clips and the index that belong to it.

    Its judges are the demo's, so are their limits.

    Args:
        out: the folder to make.
        pipe: the trained pipeline.
        clips: the corpus.
        wavs: their sound, [n, corpus.LENGTH].
        recipe: the training settings, for the record.

    Raises:
        OutputExists: `out` exists already.
    """
    assets.refuse_existing(out)
    rows = [row for row, clip in enumerate(clips) if clip.split == "train"]
    held = [row for row, clip in enumerate(clips) if clip.split != "train"]
    training, guide = [clips[row] for row in rows], embedder(GUIDE)
    with whole_folder(out) as part:
        save(pipe.transformer, part / assets.ADAPTER)
        assets.write_clips(part, training, wavs[rows])
        fingerprint = read_adapter(part / assets.ADAPTER).fingerprint
        index = index_of(training, wavs[rows], corpus.SAMPLE_RATE, guide, fingerprint)
        decoded = round_trip(pipe.vae, torch.from_numpy(wavs[held]))
        with torch.no_grad():
            made = torch.cat([guide(x[:, None], corpus.SAMPLE_RATE) for x in decoded.split(64)])
        nearest = index.search(index.project(made), 1).scores[:, 0].tolist()
        limits = assets.calibration()["thresholds"] | {"copy": float(np.quantile(nearest, 0.95))}
        index.thresholds["copy"] = limits["copy"]
        index.save(part / "index", dtype="float16")
        measured = {
            "thresholds": limits,
            "copy is the quantile of the nearest of all": 0.95,
            "held-out clips": len(held),
        }
        write_calibration(part, recipe, measured)
