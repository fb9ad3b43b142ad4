"""The demo's files: the model, its training set's index and sounds, the judges.

`anechoic demo train` makes such a folder from scratch. The functions here read one, by default the
one in the package. The folder of a fine-tuned model has an adapter of the demo's model in the place
of a model and a classifier, and clips and an index of its own.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from anechoic.errors import AnechoicError, OutputExists
from anechoic.index import JoinedIndex, TrainingIndex
from anechoic.storage import whole_folder
from anechoic_lab.demo.corpus import SAMPLE_RATE, Clip

if TYPE_CHECKING:  # the model, its classifier and judges bring diffusers
    from anechoic.index import Clip as IndexClip
    from anechoic_lab.demo.classifier import NoteClassifier
    from anechoic_lab.demo.judge import ClipScorer

SHIPPED = Path(__file__).parent / "data"
ADAPTER = "adapter"
CLIPS, CALIBRATION, CLASSIFIER = "clips.parquet", "calibration.json", "classifier.safetensors"
STEP_STATISTICS = "step-statistics.json"  # made as docs/evidence/demo-methods.md says
CFG_SCALE = 2.0  # the demo model's own classifier-free guidance scale
STEPS = 50


def model_folder(folder: Path = SHIPPED) -> Path:
    """The diffusers pipeline; of a fine-tuned model, its base."""
    return require(base(folder)) / "model"


def base(folder: Path) -> Path:
    """The folder of the model that a fine-tuned one was made of; of another, its own."""
    return SHIPPED if (folder / ADAPTER).exists() else folder


def adapters(folder: Path) -> tuple[str, ...]:
    """The adapters that make the folder's model of its base."""
    return () if base(folder) is folder else (str(folder / ADAPTER),)


def index_folder(folder: Path = SHIPPED) -> Path:
    """The index of the training set; of a fine-tuned model, that of its own clips."""
    return require(folder) / "index"


def require(folder: Path) -> Path:
    """The folder, after a check that it holds a demo.

    Raises:
        AnechoicError: files are missing.
    """
    own = ("model", CLASSIFIER) if base(folder) is folder else (ADAPTER,)
    missing = [name for name in (*own, "index", CLIPS, CALIBRATION)
               if not (folder / name).exists()]  # fmt: skip
    if missing:
        raise AnechoicError(
            f"expected the demo's files in '{folder}', but {', '.join(missing)} are missing; "
            "make them with 'anechoic demo train -o FOLDER', or reinstall anechoic"
        )
    return folder


def pipeline(folder: Path = SHIPPED) -> Any:
    """The demo model as a stock `StableAudioPipeline`, in float32 on the CPU."""
    return load_model(model_folder(folder), adapters(folder))


def load_model(folder: Path, loras: Sequence[str] = ()) -> Any:
    """A saved `StableAudioPipeline` with adapters, in float32 on the CPU."""
    from anechoic.diffusers.loading import load_pipeline

    pipe = load_pipeline(folder, "cpu", loras=loras)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def index(folder: Path = SHIPPED) -> TrainingIndex:
    """The index of the demo model's training clips, with the descriptor that guards follow."""
    return TrainingIndex.load(index_folder(folder))


def every_index(folder: Path = SHIPPED) -> TrainingIndex | JoinedIndex:
    """The index of all that a model was trained on: for a fine-tuned one its base's clips, too."""
    return JoinedIndex.of([index(one) for one in dict.fromkeys((base(folder), folder))])


def training_set(folder: Path = SHIPPED) -> tuple[list[Clip], Tensor]:
    """The training clips and their sound [n, t] at `sample_rate`, in the order of `every_index`."""
    return _training_set(folder)


def training_clips(folder: Path = SHIPPED) -> list[Clip]:
    """What is known of the training clips, in the order of `every_index`."""
    return _encoded(folder)[0]


def own_clips(folder: Path = SHIPPED) -> list[Clip]:
    """The training clips without those of the base, in the order of `index`."""
    return _own(folder)[0]


@cache  # of a function without a default, which would be another key than the same folder by name
def _training_set(folder: Path) -> tuple[list[Clip], Tensor]:
    clips, encoded = _encoded(folder)
    return clips, torch.stack([_decode(audio) for audio in encoded])


@cache
def _encoded(folder: Path) -> tuple[list[Clip], list[bytes]]:
    """The training clips, and the file of each; those of the base first."""
    own, first = _own(folder), base(folder)
    if first is folder:
        return own
    clips, encoded = _encoded(first)
    return clips + own[0], encoded + own[1]


@cache
def _own(folder: Path) -> tuple[list[Clip], list[bytes]]:
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(require(folder) / CLIPS).to_pylist()
    names = [f.name for f in fields(Clip)]
    clips = [Clip(**{name: row[name] for name in names}) for row in rows]
    borrowed = {} if all(row["audio"] for row in rows) else _audio()
    return clips, [row["audio"] or borrowed[row["id"]] for row in rows]


def _decode(audio: bytes) -> Tensor:
    import soundfile

    return torch.from_numpy(soundfile.read(io.BytesIO(audio), dtype="float32")[0])


def _audio() -> dict[str, bytes]:
    """The encoded sound of the shipped clips, by id."""
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(SHIPPED / CLIPS, columns=["id", "audio"]).to_pylist()
    return {row["id"]: row["audio"] for row in rows}


def sample_rate(folder: Path = SHIPPED) -> int:
    """The sample rate of the folder's model and training set, in Hz."""
    config = json.loads((model_folder(folder) / "vae" / "config.json").read_text())
    return int(config["sampling_rate"])


def clip_sound(clip: IndexClip, folder: Path = SHIPPED) -> tuple[Tensor, int]:
    """The sound [1, t] of a clip of the folder's index, and its sample rate in Hz."""
    return _decode(_encoded(folder)[1][_rows(folder)[clip.id]])[None], sample_rate(folder)


@cache
def _rows(folder: Path) -> dict[str, int]:
    return {clip.id: row for row, clip in enumerate(training_clips(folder))}


def write_training_set(out: Path, folder: Path = SHIPPED) -> int:
    """Write the training clips as sound files with a metadata.csv, as in an audiofolder.

    Returns:
        The number of clips.

    Raises:
        OutputExists: `out` exists.
    """
    import csv

    import pyarrow.parquet

    refuse_existing(out)
    rows = pyarrow.parquet.read_table(require(folder) / CLIPS).to_pylist()
    columns = ("caption", "id", "kind", "copies", "licence", "source", "url")
    lines = []
    with whole_folder(out) as part:
        for row in rows:
            suffix = "flac" if row["audio"].startswith(b"fLaC") else "ogg"
            file = part / f"{row['id']}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(row["audio"])
            lines.append({"file_name": file.relative_to(part).as_posix(),
                          **{name: row[name] for name in columns}})  # fmt: skip
        with (part / "metadata.csv").open("w", encoding="utf-8", newline="") as table:
            writer = csv.DictWriter(table, ("file_name", *columns))
            writer.writeheader()
            writer.writerows(lines)
    return len(rows)


def judges(folder: Path = SHIPPED) -> dict[str, ClipScorer]:
    """The descriptors of the judges, over the training set."""
    return _judges(folder)


@cache
def _judges(folder: Path) -> dict[str, ClipScorer]:
    from anechoic_lab.demo.judge import ClipScorer, heard

    return ClipScorer.all_of(heard(training_set(folder)[1], sample_rate(folder)))


def classifier(folder: Path = SHIPPED) -> NoteClassifier:
    """The judge of prompt adherence."""
    from anechoic_lab.demo.classifier import NoteClassifier

    return NoteClassifier.load(require(base(folder)) / CLASSIFIER)


def adherence(wav: Tensor, sample_rate: int, prompt: str) -> float | None:
    """Share of a training caption that a sound [c, t] has right: family and register. None: a
    prompt that is not the caption of a note."""
    from anechoic_lab.demo.judge import heard

    clip = _notes().get(prompt)
    if clip is None:
        return None
    families, registers = _classifier().predict(heard(wav.mean(0, keepdim=True), sample_rate))
    return ((families[0] == clip.family) + (registers[0] == clip.register)) / 2


@cache
def _notes() -> dict[str, Clip]:
    return {clip.caption: clip for clip in training_clips() if clip.kind == "note"}


@cache
def _classifier() -> NoteClassifier:
    return classifier()


def calibration(folder: Path = SHIPPED) -> dict[str, Any]:
    """Thresholds and the classifier's accuracy, measured on held-out real sound."""
    measured: dict[str, Any] = json.loads((require(folder) / CALIBRATION).read_text())
    return measured


def encode_sound(wav: np.ndarray, lossless: bool, rate: int = SAMPLE_RATE) -> bytes:
    """Encode as FLAC if the clip is compared sample by sample, else as Vorbis."""
    import soundfile

    buffer = io.BytesIO()
    form, subtype = ("FLAC", "PCM_16") if lossless else ("OGG", "VORBIS")
    soundfile.write(buffer, wav, rate, format=form, subtype=subtype)
    return buffer.getvalue()


def write_clips(
    folder: Path,
    clips: list[Clip],
    wavs: np.ndarray,
    borrowed: bool = False,
    rate: int = SAMPLE_RATE,
) -> None:
    """Write the manifest of the training set: source, licence and sound of every clip.

    Clips that are `borrowed` are the demo's own, whose sound is read from there.
    """
    import pyarrow
    import pyarrow.parquet

    rows = [
        {**asdict(clip), "audio": None if borrowed else encode_sound(wav, clip.copies > 1, rate)}
        for clip, wav in zip(clips, wavs, strict=True)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / CLIPS)


def refuse_existing(folder: Path) -> None:
    """Refuse an output folder that exists.

    Raises:
        OutputExists: the folder exists.
    """
    if folder.exists():
        raise OutputExists(
            f"'{folder}' exists already; name another output, or move the old one away"
        )
