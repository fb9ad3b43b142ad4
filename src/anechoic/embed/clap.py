"""Clap: LAION's language-audio embedding, with a front end that carries gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anechoic.embed.frontend import follow, power_spectrum, prepare, window_starts
from anechoic.errors import UnknownEmbedder

DEFAULT = "laion/clap-htsat-unfused"
FLOOR = 1e-10  # the stock extractor's smallest mel energy, -100 dB


class Clap:
    """CLAP's audio tower on windows of 10 s, and its text tower for prompt adherence.

    The front end equals the stock `ClapFeatureExtractor` (unfused, "repeatpad") but is torch from
    end to end. Sound up to 10 s is repeated a whole number of times, then padded with silence.
    Longer sound, of which the stock extractor takes one window *at random*, so that a file scores
    0.30 to 0.99 against itself, is cut into windows every 5 s, the last flush with the end; their
    embeddings are averaged and normalised again.

    The model follows the device of the sound. Its weights are frozen, and it computes in float32.

    Args:
        source: a repository on huggingface.co, or a folder written by `save_pretrained`.

    Attributes:
        revision: commit of the repository that the weights came from; None for a folder.

    Raises:
        UnknownEmbedder: the weights are not here, cannot be had, or are no unfused CLAP.

    Source: Wu et al., 2023 (arXiv:2211.06687).
    """

    def __init__(self, source: str = DEFAULT) -> None:
        folder = Path(source).expanduser()
        # An index records the name, and is opened from other working directories too.
        self.source = str(folder.resolve()) if folder.is_dir() else source
        self.name = f"clap:{self.source}"
        self._model, extractor = _load(self.source)
        self._tokenizer: Any = None
        self.revision = _revision(self.source)
        self.dim = self._model.config.projection_dim
        self.sample_rate = extractor.sampling_rate
        self._samples = extractor.nb_max_samples
        self._size, self._hop = extractor.fft_window_size, extractor.hop_length
        self._filters = torch.from_numpy(extractor.mel_filters_slaney).T.contiguous()

    def __call__(self, wav: Tensor, sample_rate: int) -> Tensor:
        """Embed clips [b, channels, t] of any length: unit vectors [b, dim]."""
        mono = prepare(wav, sample_rate, self.sample_rate)
        starts = window_starts(mono.shape[-1], self._samples, self._samples // 2)
        # One window of each clip at a time: minutes of sound need no more memory than 10 s.
        each = [self._window(mono[:, start : start + self._samples]) for start in starts]
        return F.normalize(torch.stack(each).mean(0), dim=1)

    def text(self, captions: list[str]) -> Tensor:
        """Embed captions in the same space, [n, dim], unit norm: cosine to sound is adherence.

        Raises:
            UnknownEmbedder: the tokenizer's files are not with the weights.
        """
        if self._tokenizer is None:
            self._tokenizer = _load_tokenizer(self.source)
        tokens = self._tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
        return self._model.get_text_features(**tokens.to(self._model.device)).pooler_output

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
        follow(self._model, mono)
        return self._model.get_audio_features(self.features(mono)[:, None]).pooler_output


def _load(source: str) -> tuple[Any, Any]:
    """Model, frozen, and feature extractor; nothing of the model may be missing."""
    from transformers import ClapFeatureExtractor, ClapModel

    try:
        loaded: Any = ClapModel.from_pretrained(source, output_loading_info=True)
        extractor = ClapFeatureExtractor.from_pretrained(source)
    except Exception as error:  # each file format and hub adds classes of its own
        raise UnknownEmbedder(_why(source, error)) from error
    model, info = loaded
    # transformers would fill them in at random. Integers are tables that the model makes itself.
    state = model.state_dict()
    missing = [key for key in info["missing_keys"] if state[key].is_floating_point()]
    if missing:
        raise UnknownEmbedder(
            f"expected all weights of a CLAP, got {source!r} without {len(missing)} of them, "
            f"{missing[0]} among them; it is another model or an incomplete copy: fetch it again"
        )
    if model.config.audio_config.enable_fusion:
        raise UnknownEmbedder(
            f"expected an unfused CLAP, got the fused {source!r}, which sees long sound through "
            f"random crops; take '{DEFAULT}'"
        )
    return model.eval().requires_grad_(False), extractor


def _revision(source: str) -> str | None:
    """The commit of the cached repository that `_load` has just read; None for a folder."""
    from huggingface_hub import try_to_load_from_cache

    if Path(source).is_dir():
        return None
    path = try_to_load_from_cache(source, "config.json")  # .../snapshots/COMMIT/config.json
    return Path(path).parent.name if isinstance(path, str) else None


def _load_tokenizer(source: str) -> Any:
    from transformers import AutoTokenizer

    sentence = (
        f"expected a tokenizer beside the CLAP weights of {source!r}, got none; save the model's "
        "tokenizer there too"
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:
        raise UnknownEmbedder(sentence) from error
    # Without the files transformers 5 makes one of an empty vocabulary: each word is unknown.
    if set(tokenizer("a dog barks").input_ids) <= set(tokenizer.all_special_ids):
        raise UnknownEmbedder(sentence)
    return tokenizer


def _why(source: str, error: Exception) -> str:
    """One sentence on why a CLAP could not be loaded."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)

    def caused_by(*kinds: type[Exception]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if Path(source).is_dir():
        return (
            "expected config.json, model.safetensors and preprocessor_config.json of a CLAP, got "
            f"the folder {source!r} ({str(error).splitlines()[0]}); write them with "
            "`save_pretrained` of model and feature extractor"
        )
    if caused_by(GatedRepoError):
        return (
            f"expected CLAP weights that may be read, got the gated repository {source!r}; accept "
            "its terms on huggingface.co and run 'hf auth login'"
        )
    if caused_by(RepositoryNotFoundError, HFValidationError) or source.startswith((".", "/", "~")):
        return (
            f"expected a folder or a repository on huggingface.co with a CLAP, got {source!r}, "
            "which is neither; correct it, or run 'hf auth login' if it is private"
        )
    return (
        f"expected the weights of {source!r}, got neither a local copy nor a connection to "
        f"huggingface.co; run 'hf download {source}' where there is one, or name a folder: "
        "'clap:/path/to/weights'"
    )
