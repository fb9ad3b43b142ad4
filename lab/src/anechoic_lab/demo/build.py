"""Builds the demo's folder from scratch: corpus, model, index, judges and their calibration."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableAudioPipeline
from torch import Tensor

from anechoic.diffusers import fingerprint
from anechoic.embedders import embedder
from anechoic.index import Sound, TrainingIndex
from anechoic.storage import whole_folder
from anechoic.types import Embedder
from anechoic_lab.demo import assets, classifier, corpus
from anechoic_lab.demo.classifier import NOTES, Labels
from anechoic_lab.demo.codec import MelCodec
from anechoic_lab.demo.corpus import SAMPLE_RATE, Clip
from anechoic_lab.demo.judge import COPY, ClipScorer, heard
from anechoic_lab.demo.train import TrainingRecipe, train
from anechoic_lab.demo.watch import GUIDE, Previews, watched

Report = Callable[[str, int, int], None]  # current task, steps done, total


def build(
    out: Path,
    work: Path,
    recipe: TrainingRecipe,
    report: Report = lambda what, done, total: None,
    monitor: Path | None = None,
) -> None:
    """Make the demo's folder from scratch.

    Args:
        out: the folder to make; written next to it first and renamed when complete.
        work: folder for the unpacked Debian packages.
        recipe: training settings.
        report: called after each step.
        monitor: folder for the log of a monitor, which prints what it sees; None: there is none.

    Raises:
        OutputExists: `out` exists already.
        BadSetting: a package or a program that it needs is missing.
    """
    assets.refuse_existing(out)
    report("rendering the corpus", 0, 1)
    clips, wavs = corpus.build(work, recipe.seed)
    report("rendering the corpus", 1, 1)
    previews = Previews()
    watch = None
    if monitor is not None:
        watch = watched(clips, torch.from_numpy(wavs), monitor, previews)

    def step(done: int, loss: float, averaged: Any) -> None:
        previews.pipe = averaged
        if watch is not None:
            watch(done)
        report("training", done, recipe.steps)

    pipe = train(clips, wavs, recipe, step)
    write(out, pipe, clips, wavs, recipe, report)


def write(
    out: Path,
    pipe: StableAudioPipeline,
    clips: list[Clip],
    wavs: np.ndarray,
    recipe: TrainingRecipe,
    report: Report = lambda what, done, total: None,
    labels: Labels = NOTES,
    borrowed: bool = False,
    follow: str = GUIDE,
) -> None:
    """Write a trained pipeline and everything that belongs to it.

    Args:
        out: the folder to make.
        pipe: the pipeline; its weights are written in half precision.
        clips: the corpus.
        wavs: their sound, [n, LENGTH].
        recipe: the training settings, for the record.
        report: called after each step.
        labels: what the clips that name an instrument are classified by.
        borrowed: the sound of the training clips is that of the shipped demo.
        follow: the descriptor of the index, which guards follow.
    """
    assets.refuse_existing(out)
    with whole_folder(out) as part:
        pipe.to(dtype=torch.float16).save_pretrained(part / "model", safe_serialization=True)
        pipe = assets.load_model(part / "model")
        rows = [i for i, clip in enumerate(clips) if clip.split == "train"]
        training = [clips[i] for i in rows]
        rate = pipe.vae.config.sampling_rate
        assets.write_clips(part, training, wavs[rows], borrowed, rate)
        report("measuring", 0, 3)
        through_codec = round_trip(pipe.vae, torch.from_numpy(wavs))
        at_16_khz = heard(through_codec, rate)
        notes = [i for i in rows if clips[i].instrument]
        model = classifier.fit(
            at_16_khz[notes],
            [clips[i].instrument for i in notes],
            [clips[i].register for i in notes],
            recipe.seed,
            labels=labels,
        )
        model.save(part / assets.CLASSIFIER)
        report("measuring", 1, 3)
        guide = embedder(follow)
        index = index_of(training, wavs[rows], rate, guide, fingerprint(pipe))
        report("measuring", 2, 3)
        held = [i for i, clip in enumerate(clips) if clip.split != "train"]
        measured = calibrate(
            index, guide, model, training, heard(torch.from_numpy(wavs[rows]), rate),
            [clips[i] for i in held], at_16_khz[held],
        )  # fmt: skip
        index.thresholds["copy"] = measured["thresholds"]["copy"]
        index.save(part / "index", dtype="float16")
        write_calibration(part, recipe, measured)
        report("measuring", 3, 3)


def index_of(
    clips: Sequence[Clip], wavs: np.ndarray, rate: int, guide: Embedder, model: str
) -> TrainingIndex:
    """The index of clips [n, t] that a model, or an adapter, of this fingerprint was trained on."""
    return TrainingIndex.build(
        [
            Sound(clip.id, clip.caption, torch.from_numpy(wav)[None], rate,
                  info={"licence": clip.licence, "source": clip.source, "url": clip.url})
            for clip, wav in zip(clips, wavs, strict=True)
        ],
        guide,
        model=model,
    )  # fmt: skip


def write_calibration(folder: Path, recipe: TrainingRecipe, measured: Mapping[str, Any]) -> None:
    """Write what was measured on held-out sound, with the recipe and the versions."""
    about = {"recipe": asdict(recipe), "made with": _versions(), **measured}
    (folder / assets.CALIBRATION).write_text(json.dumps(about, indent=2) + "\n")


@torch.no_grad()
def round_trip(codec: MelCodec, wav: Tensor) -> Tensor:
    """Clips [n, t] after encoding and decoding: the sound of a perfect copy."""
    return torch.cat(
        [codec.decode(codec.encode(x[:, None]).latent_dist.mean).sample[:, 0]
         for x in wav.split(64)]
    )  # fmt: skip


def calibrate(
    index: TrainingIndex,
    guide: Any,
    model: classifier.NoteClassifier,
    training: list[Clip],
    training_wav: Tensor,
    held: list[Clip],
    held_wav: Tensor,
) -> dict[str, Any]:
    """Thresholds and accuracies on real held-out clips, after the codec.

    There are two nulls, for two questions. Is a generation *its own* clip? Held-out takes are
    compared with the training takes of the same caption. Is it *any* clip? Every held-out clip is
    compared with the nearest of all.
    """
    captions = np.array([clip.caption for clip in training])
    siblings: dict[str, list[float]] = {"mel": [], "envelope": []}
    nearest: dict[str, list[float]] = {}
    for name in siblings:
        scores = ClipScorer.of(name, training_wav)(held_wav)
        nearest[name] = scores.amax(1).tolist()
        for clip, row in zip(held, scores, strict=True):
            if clip.split == "held-out take":
                siblings[name].append(row[torch.from_numpy(captions == clip.caption)].max().item())
    with torch.no_grad():
        emb = torch.cat([guide(x[:, None], SAMPLE_RATE) for x in held_wav.split(64)])
    nearest["magmel"] = index.search(index.project(emb), 1).scores[:, 0].tolist()
    accuracy = {}
    for split in ("held-out take", "held-out caption"):
        rows = [i for i, clip in enumerate(held) if clip.split == split and clip.instrument]
        if not rows:
            continue
        families, registers = model.predict(held_wav[rows])
        accuracy[split] = {
            "n": len(rows),
            "family": float(
                np.mean([f == held[i].family for f, i in zip(families, rows, strict=True)])
            ),
            "register": float(
                np.mean([r == held[i].register for r, i in zip(registers, rows, strict=True)])
            ),
        }
    return {
        "thresholds": {
            "mel": COPY,
            "envelope": float(np.quantile(siblings["envelope"], 0.95)),
            "copy": float(np.quantile(nearest["magmel"], 0.95)),
        },
        "false positives": {
            "mel over its threshold, same caption": float(
                np.mean(np.array(siblings["mel"]) > COPY)
            ),
            "mel over its threshold, nearest of all": float(
                np.mean(np.array(nearest["mel"]) > COPY)
            ),
        },
        "copy is the quantile of the nearest of all": 0.95,
        "envelope is the quantile of the same caption": 0.95,
        "held-out clips": len(held),
        "held-out takes": len(siblings["mel"]),
        "classifier on real held-out clips": accuracy,
    }


def _versions() -> dict[str, str]:
    names = ("torch", "diffusers", "transformers", "numpy", "anechoic")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
