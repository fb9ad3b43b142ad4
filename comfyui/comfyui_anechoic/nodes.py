"""The three nodes: Anechoic Guard, Anechoic Check and Anechoic Certificate."""

from __future__ import annotations

import glob
import io
import math
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anechoic import audio
from anechoic.audit.excerpts import show
from anechoic.audit.training import TrainingSet
from anechoic.certificate import certify, samples_sha256
from anechoic.embedders import embedder
from anechoic.errors import BadAudio, BadSetting, GuardError
from anechoic.guidance import registry
from anechoic.guidance.base import Guidance
from anechoic.guidance.presets import PRESETS, resolve
from anechoic.index import TrainingIndex
from anechoic.models import index_folder
from anechoic.verdict import Verdict, Verifier

from .call import normal_tensors
from .guard import guarded

Inputs = dict[str, dict[str, Any]]
INDEX = ("STRING", {"default": "", "tooltip": "Folder of the index of the training set"})
LOSSLESS = {".flac", ".wav"}
ROUNDING = 2**-14  # of a sound that is saved with 16 bits
LATEST = 64  # saved files that are compared with a sound
ZOOM, GAP = 3, 6  # of the pictures, in pixels


class AnechoicNode:
    """What the nodes have in common."""

    CATEGORY = "anechoic"

    @classmethod
    def IS_CHANGED(cls, index: str, **inputs: Any) -> float:
        """When the index was changed last; ComfyUI runs a node again if this is another."""
        files = [Path(index_folder(index), name) for name in ("manifest.json", "calibration.json")]
        return max((file.stat().st_mtime for file in files if file.is_file()), default=math.nan)


class AnechoicGuard(AnechoicNode):
    """Guards a model: every sampling of it is guided away from the training clips."""

    RETURN_TYPES, FUNCTION = ("MODEL",), "guard"
    DESCRIPTION = (
        "Guides every sampling of the model away from the clips of an index. The guidance scale is "
        "the sampler's cfg. Put it after all else that changes the model."
    )

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        known = {point.name for point in entry_points(group=registry.GROUP)}
        methods = ["auto", *sorted(known - {"auto"}), *PRESETS]
        settings = {"default": "", "multiline": True, "tooltip": "NAME=VALUE, one on each line"}
        return {
            "required": {
                "model": ("MODEL",),
                "method": (methods, {"default": "auto"}),
                "index": INDEX,
            },
            "optional": {
                "clip": ("CLIP", {"tooltip": "For methods that try other captions, such as auto"}),
                "vae": ("VAE", {"tooltip": "For methods that compare sound, such as auto"}),
                "settings": ("STRING", settings),
            },
        }

    def guard(
        self,
        model: Any,
        method: str,
        index: str,
        clip: Any = None,
        vae: Any = None,
        settings: str = "",
    ) -> tuple[Any]:
        with normal_tensors():
            return (guarded(model, method_of(method, index, settings), clip, vae),)


def method_of(name: str, index: str, settings: str) -> Callable[[float], Guidance]:
    """What makes a method at a guidance scale.

    Raises:
        BadSetting: no such method or setting, or no index where it needs one.
        IndexMismatch: there is no such index.
        UnknownEmbedder: the index's embedder is not installed.
    """
    chosen = registry.method(resolve(name).guard)
    lines = [line.strip() for line in settings.splitlines() if line.strip()]
    known, given = registry.parse(chosen, lines), {}
    if registry.takes(chosen, "index"):
        if not index:
            raise BadSetting(f"method '{name}' needs the folder of an index; write it into 'index'")
        opened = TrainingIndex.load(index_folder(index))
        given = {"index": opened, "embedder": embedder(opened.embedder_name, trusted=False)}
    return lambda scale: registry.build(name, known, {"scale": scale, **given})


class AnechoicCheck(AnechoicNode):
    """Tells whether sound is a copy of a training clip."""

    RETURN_TYPES = ("STRING", "STRING", "STRING", "IMAGE", "AUDIO")
    RETURN_NAMES = ("verdict", "score", "nearest clip", "spectrograms", "audio")
    FUNCTION = "check"
    DESCRIPTION = (
        "Compares sound with every clip of an index. The spectrograms are those of the sound, and "
        "below it of the nearest clip at the same time."
    )

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        stop = {"default": False, "tooltip": "Stop the workflow unless all of it is 'no copy'"}
        return {
            "required": {"audio": ("AUDIO",), "index": INDEX, "stop_at_copies": ("BOOLEAN", stop)}
        }

    def check(
        self, audio: dict[str, Any], index: str, stop_at_copies: bool
    ) -> tuple[str, str, str, Tensor, dict[str, Any]]:
        with normal_tensors():
            verifier = Verifier.load(index_folder(index))
            sounds = list(_sounds(audio))
            verdicts = [verifier(*sound) for sound in sounds]
            words = [_words(verdict) for verdict in verdicts]
            if stop_at_copies and (wrong := {*words} - {"no copy"}):
                raise GuardError(f"the sound does not pass: {', '.join(sorted(wrong))}")
            training = TrainingSet(verifier.index)
            pictures = [
                _picture(*sound, verdict, training)
                for sound, verdict in zip(sounds, verdicts, strict=True)
            ]
        scores = [f"{verdict.score:.3f}" if verdict.clip else "" for verdict in verdicts]
        return (
            "\n".join(words),
            "\n".join(scores),
            "\n".join(_nearest(verdict) for verdict in verdicts),
            _batch(pictures),
            audio,
        )


def _sounds(audio: dict[str, Any]) -> Iterator[tuple[Tensor, int]]:
    """The sounds of a batch, [c, t] each, and their sample rate."""
    for wav in audio["waveform"]:
        yield wav.float().cpu().clone(), int(audio["sample_rate"])


def _words(verdict: Verdict) -> str:
    return f"{verdict.status}: {verdict.reason}" if verdict.reason else verdict.status


def _nearest(verdict: Verdict) -> str:
    if verdict.clip is None:
        return ""
    return (
        f"{verdict.clip.caption} ({verdict.clip.id}), at {verdict.match.match_start_s or 0:.2f} s"
    )


def _picture(wav: Tensor, sample_rate: int, verdict: Verdict, training: TrainingSet) -> np.ndarray:
    """The spectrograms of a sound and its nearest clip, one below the other, [h, w, 3] in [0, 1];
    of the sound alone, where the clip's own is not there."""
    from PIL import Image

    kept: list[bytes] = []

    def keep(content: bytes, suffix: str) -> str:
        kept.append(content)
        return str(len(kept) - 1)

    row = verdict.match.row
    clip = "nothing was compared" if row is None else training.sound(training.numbers[row])
    shown = show(wav, sample_rate, verdict.match, clip, keep)
    parts = [
        np.asarray(Image.open(io.BytesIO(kept[int(one.spectrogram)])).convert("RGB"))
        for one in (shown.made, shown.training)
        if one is not None
    ]
    parts = [part.repeat(ZOOM, 0).repeat(ZOOM, 1) / np.float32(255) for part in parts]
    width, height = max(part.shape[1] for part in parts), parts[0].shape[0]
    whole = np.zeros((2 * height + GAP, width, 3), np.float32)
    for number, part in enumerate(parts):
        top = number * (height + GAP)
        whole[top : top + height, : part.shape[1]] = part
    return whole


def _batch(pictures: list[np.ndarray]) -> Tensor:
    """Pictures of one height as a batch [b, h, w, 3]; narrow ones end in black."""
    width = max(picture.shape[1] for picture in pictures)
    padded = [np.pad(one, ((0, 0), (0, width - one.shape[1]), (0, 0))) for one in pictures]
    return torch.from_numpy(np.stack(padded))


class AnechoicCertificate(AnechoicNode):
    """Writes the certificate of saved sound that is no copy."""

    RETURN_TYPES, RETURN_NAMES, FUNCTION = ("STRING",), ("certificate",), "certify"
    OUTPUT_NODE = True
    DESCRIPTION = (
        "Judges the file that a sound was saved to, and writes a certificate beside it if it is "
        "'no copy'; else the workflow stops. Connect the audio that comes out of the node that "
        "saves it."
    )

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        saved = {
            "default": "audio/ComfyUI",
            "tooltip": "The file, or the filename_prefix of the node that saved it",
        }
        return {"required": {"audio": ("AUDIO",), "saved": ("STRING", saved), "index": INDEX}}

    @classmethod
    def IS_CHANGED(cls, index: str, **inputs: Any) -> float:
        return math.nan  # files come and go

    def certify(self, audio: dict[str, Any], saved: str, index: str) -> tuple[str]:
        with normal_tensors():
            verifier = Verifier.load(index_folder(index))
            written = [
                _certified(saved.replace("%batch_num%", str(number)), *sound, verifier)
                for number, sound in enumerate(_sounds(audio))
            ]
        return ("\n".join(map(str, written)),)


def _certified(saved: str, wav: Tensor, sample_rate: int, verifier: Verifier) -> Path:
    import folder_paths

    place = Path(folder_paths.get_output_directory(), saved)
    for file in _files(place):
        sound, rate = audio.read(file, allow_silence=True)
        same = rate == sample_rate and sound.shape == wav.shape
        if same and float((sound - wav.clamp(-1, 1)).abs().max()) <= ROUNDING:
            verdict = verifier(sound, rate)
            return certify(
                file, verdict, verifier.index, judged=samples_sha256(sound), overwrite=True
            )
    raise BadAudio(
        f"expected the sound in '{place}', or in one of the {LATEST} latest FLAC or WAV files "
        "whose names begin so, got none that holds it; save it before, as FLAC, and name the file "
        "or its prefix. A lossy file gets its certificate from 'anechoic check FILE --certify'"
    )


def _files(place: Path) -> list[Path]:
    """A file, or the latest ones of a prefix, latest first."""
    if place.is_file():
        return [place]
    found = place.parent.glob(f"{glob.escape(place.name)}*")
    lossless = [file for file in found if file.suffix.lower() in LOSSLESS]
    return sorted(lossless, key=lambda file: file.stat().st_mtime, reverse=True)[:LATEST]


NODE_CLASS_MAPPINGS = {
    node.__name__: node for node in (AnechoicGuard, AnechoicCheck, AnechoicCertificate)
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "AnechoicGuard": "Anechoic Guard",
    "AnechoicCheck": "Anechoic Check",
    "AnechoicCertificate": "Anechoic Certificate",
}
