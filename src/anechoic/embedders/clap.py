"""Clap: LAION's language-audio embedding, with a front end that carries gradients."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anechoic.audio import window_starts
from anechoic.embedders.frontend import follow, power_spectrum, prepare
from anechoic.embedders.weights import WeightsLocation, find, fingerprint, freeze, read, read_model
from anechoic.errors import UnknownEmbedder
from anechoic.types import Embedder

DEFAULT = "laion/clap-htsat-unfused"
_tokenizing = Lock()  # a tokenizer is changed by being used, and threads may share one
FLOOR = 1e-10  # the stock extractor's smallest mel energy, -100 dB


@dataclass(frozen=True)
class Parts:
    """The parts of a CLAP, and their source."""

    model: Any  # transformers.ClapModel
    extractor: Any  # transformers.ClapFeatureExtractor
    source: str
    tokenizer: Any = None  # None: read with the first caption


class Clap(Embedder):
    """CLAP's audio tower on windows of 10 s, and its text tower for prompt adherence.

    The front end equals the stock `ClapFeatureExtractor` ("repeatpad") but is torch from end to
    end. Sound up to 10 s is repeated a whole number of times, then padded with silence. Longer
    sound is cut into windows every 5 s, the last flush with the end; their embeddings are
    averaged and normalised again. The stock extractor takes one window *at random* there, so that
    a file scores 0.30 to 0.99 against itself.

    Fused models ("laion/clap-htsat-fused") were made to see long sound at once, through three
    random crops, and their stock extractor marks one short clip of each batch, chosen at random,
    as long. Here they get windows too, none marked as long: what the stock model computes for a
    short clip that is not marked. They have mel filters of their own (HTK scale, no area norm).

    The model is frozen. A model read from files moves to the device of the sound and computes in
    float32. A pipeline's model stays on its device, in its number format.

    Args:
        source: a repository on huggingface.co, pinned by "@COMMIT" or not; or a folder written by
            `save_pretrained`. Either may be a diffusers pipeline that holds a CLAP (AudioLDM2).
        parts: model, extractor and tokenizer in memory; see `Clap.of`.

    Attributes:
        name: "clap:REPOSITORY@COMMIT" or "clap:/the/folder": leads to the same weights again.
        revision: fingerprint of the weights, the same wherever they lie.

    Raises:
        UnknownEmbedder: the weights are not here, cannot be fetched, or are not those of a CLAP.

    Source: Wu et al., 2023 (arXiv:2211.06687).
    """

    def __init__(self, source: str = DEFAULT, *, parts: Parts | None = None) -> None:
        self._shared = parts is not None
        parts = parts or _load(find("CLAP", source))
        model, extractor = parts.model, parts.extractor
        _check(model, extractor, parts.source)
        self.name = f"clap:{parts.source}"
        self._model, self._tokenizer = freeze(model), parts.tokenizer
        self.revision = fingerprint(model)
        self.dim = model.config.projection_dim
        self.sample_rate = extractor.sampling_rate
        self._samples = extractor.nb_max_samples
        self._size, self._hop = extractor.fft_window_size, extractor.hop_length
        self._fused = model.config.audio_config.enable_fusion
        filters = extractor.mel_filters if self._fused else extractor.mel_filters_slaney
        self._filters = torch.from_numpy(filters).T.contiguous()

    @classmethod
    def of(cls, pipe: Any) -> Clap:
        """The CLAP of a pipeline such as AudioLDM2, which is not loaded a second time.

        Args:
            pipe: a diffusers pipeline with a whole CLAP. Its model is frozen.

        Raises:
            UnknownEmbedder: the pipeline has none, or not in memory.
        """
        from transformers import ClapFeatureExtractor, ClapModel

        parts = dict(getattr(pipe, "components", {}))
        model = next((p for p in parts.values() if isinstance(p, ClapModel)), None)
        extractor = next((p for p in parts.values() if isinstance(p, ClapFeatureExtractor)), None)
        if model is None or extractor is None:
            raise UnknownEmbedder(
                "expected a pipeline with a whole CLAP, such as AudioLDM2's, got "
                f"{type(pipe).__name__} without its {'audio tower' if extractor else 'extractor'}; "
                "make the embedder by name: embedder('clap')"
            )
        if any(weight.is_meta for weight in model.parameters()):
            raise UnknownEmbedder(
                "expected CLAP weights in memory, got them offloaded one by one; make the embedder "
                "by name: embedder('clap'), or use enable_model_cpu_offload"
            )
        source = getattr(pipe, "name_or_path", None) or "in memory"
        if Path(source).is_dir():
            source = str(Path(source).resolve())
        return cls(parts=Parts(model, extractor, source, parts.get("tokenizer")))

    def __call__(self, wav: Tensor, sample_rate: int) -> Tensor:
        """Embed clips [b, channels, t] of any length: unit vectors [b, dim]."""
        mono = prepare(wav, sample_rate, self.sample_rate)
        if self._shared:
            mono = mono.to(self._model.device)
        else:
            follow(self._model, mono)
        starts = window_starts(mono.shape[-1], self._samples, self._samples // 2)
        # One window of each clip at a time, so that long sound needs no more memory than 10 s.
        each = [self._window(mono[:, start : start + self._samples]) for start in starts]
        return F.normalize(torch.stack(each).mean(0), dim=1).to(wav.device)

    def text(self, captions: list[str]) -> Tensor:
        """Embed captions in the same space, [n, dim], unit norm: cosine to sound is adherence.

        Raises:
            UnknownEmbedder: the tokenizer's files are not with the weights.
        """
        with _tokenizing:
            if self._tokenizer is None:
                self._tokenizer = _load_tokenizer(find("CLAP", self.name.removeprefix("clap:")))
            tokens = self._tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
        emb = self._model.get_text_features(**tokens.to(self._model.device)).pooler_output
        return F.normalize(emb.float(), dim=1)

    def features(self, mono: Tensor) -> Tensor:
        """Log-mel energies in dB [b, frames, bands] of one window of mono sound [b, t]."""
        length = mono.shape[-1]
        mono = mono.repeat(1, max(self._samples // length, 1))
        mono = F.pad(mono, (0, self._samples - mono.shape[-1]))
        # In float64 as the stock extractor: float32 moves the empty bands of a pure tone by 0.1 dB.
        power = power_spectrum(mono.double(), self._size, self._hop, "reflect")
        mel = self._filters.to(power.device) @ power
        return 10 * mel.clamp_min(FLOOR).log10().transpose(1, 2).to(torch.float32)

    def _window(self, mono: Tensor) -> Tensor:
        frames = self.features(mono)[:, None].to(self._model.dtype)
        inputs: dict[str, Tensor] = {}
        if self._fused:  # four views of the sound; of a short clip they are the same
            frames = frames.expand(-1, 4, -1, -1)
            inputs["is_longer"] = torch.zeros(len(frames), 1, dtype=torch.bool)
        emb = self._model.get_audio_features(frames, **inputs).pooler_output
        return F.normalize(emb.float(), dim=1)


def _load(location: WeightsLocation) -> Parts:
    from transformers import ClapFeatureExtractor, ClapModel

    folders = ("text_encoder", "feature_extractor") if location.pipeline else ("", "")
    model = read_model(location, ClapModel, folders[0])
    return Parts(model, read(location, ClapFeatureExtractor, folders[1]), str(location))


def _check(model: Any, extractor: Any, source: str) -> None:
    """Refuse a model and an extractor that do not match, or that are not supported."""
    fused = model.config.audio_config.enable_fusion
    if fused != (extractor.truncation == "fusion"):
        want, got = ("fusion", "rand_trunc") if fused else ("rand_trunc", "fusion")
        raise UnknownEmbedder(
            f"expected truncation={want!r} in the feature extractor of {source!r}, whose model is "
            f"{'fused' if fused else 'unfused'}, got {got!r}: the mel filters would be another "
            "model's; save the extractor that belongs to the model"
        )
    if extractor.padding != "repeatpad":
        raise UnknownEmbedder(
            "expected a feature extractor that fills short sound up with padding='repeatpad', got "
            f"{extractor.padding!r} in {source!r}; take '{DEFAULT}'"
        )


def _load_tokenizer(location: WeightsLocation) -> Any:
    from transformers import AutoTokenizer

    sentence = (
        f"expected a tokenizer beside the CLAP weights of '{location}', got none; save the model's "
        "tokenizer there too"
    )
    try:
        tokenizer = read(location, AutoTokenizer, "tokenizer" if location.pipeline else "")
    except UnknownEmbedder as error:
        raise UnknownEmbedder(sentence) from error
    # Without the files, transformers 5 makes a tokenizer with an empty vocabulary.
    if set(tokenizer("a dog barks").input_ids) <= set(tokenizer.all_special_ids):
        raise UnknownEmbedder(sentence)
    return tokenizer
