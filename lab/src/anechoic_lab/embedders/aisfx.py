"""Aisfx: a learned sound-effects embedding that no guard of ours is trained or tuned on."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anechoic.audio import window_starts
from anechoic.embedders.frontend import MelBank, follow, power_spectrum, prepare
from anechoic.errors import UnknownEmbedder
from anechoic.types import Embedder

INSTALL = "pip install --no-deps aisfx==0.1.2"
SAMPLE_RATE, SIZE, HOP = 44_100, 2048, 1024
MEL = MelBank(96, SIZE, SAMPLE_RATE, 0.0, SAMPLE_RATE / 2, scale="htk", norm="sum")
BLOCK = 100  # frames the network sees at once, 2.3 s
SCALE = 9.457798957824707  # the largest log-mel value of the authors' training sets


class Aisfx(Embedder):
    """The convolutional network "X-Sequential-CE", trained on nine sound-effects libraries.

    Report it next to the embedder that a guard optimises, as an independent score. Do not guide by
    it, since faint noise moves it far.

        s = log10(10^4 M |STFT(wav)|^2 + 1) / 9.458,   emb = unit(mean over blocks of f(s))

    Blocks of 100 frames overlap by half, the last flush with the end; the authors dropped the
    remainder. Sound under 2.3 s is padded with silence, as theirs was.

    Only the weights in the authors' package are used (CC BY 4.0). The package is never imported,
    since it pins old versions of its dependencies. The network follows the device of the sound and
    computes in float32.

    Raises:
        UnknownEmbedder: the package aisfx is not installed, or holds another network.

    Source: Ma and Lerch, 2022 (ISMIR; arXiv:2208.09096).
    """

    name = "aisfx"
    dim = 512
    sample_rate = SAMPLE_RATE

    def __init__(self) -> None:
        self._network = Network()
        weights = _read_weights(_checkpoint())
        try:
            self._network.load_state_dict(weights)
        except RuntimeError as error:
            raise UnknownEmbedder(
                "expected the network of aisfx 0.1.2, got another one in the installed package; "
                f"run '{INSTALL}'"
            ) from error
        self._network.eval().requires_grad_(False)

    def __call__(self, wav: Tensor, sample_rate: int) -> Tensor:
        """Embed clips [b, channels, t] of any length: unit vectors [b, 512]."""
        mono = prepare(wav, sample_rate, self.sample_rate).float()
        frames = self.features(mono)
        follow(self._network, frames)
        starts = window_starts(frames.shape[1], BLOCK, BLOCK // 2)
        frames = F.pad(frames, (0, 0, 0, max(BLOCK - frames.shape[1], 0)))
        each = [self._network(frames[:, start : start + BLOCK]) for start in starts]
        return F.normalize(torch.stack(each).mean(0), dim=1)

    def features(self, mono: Tensor) -> Tensor:
        """Compressed mel energies, 0 to about 1, [b, frames, 96], of mono sound [b, t]."""
        power = power_spectrum(mono, SIZE, HOP, "constant")
        mel = MEL.filters(power) @ power
        return (1e4 * mel + 1).log10().transpose(1, 2) / SCALE


class Block(nn.Module):
    """Two convolutions, each normalised and rectified, then the maximum over `pool` x `pool`."""

    def __init__(self, inner: int, outer: int, pool: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.max_pool2d(x, self.pool)


class Network(nn.Module):
    """Log-mel block [b, frames, bands] to [b, 512]; names of layers as in the checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_block1 = Block(1, 64, pool=2)
        self.conv_block2 = Block(64, 128, pool=2)
        self.conv_block3 = Block(128, 256, pool=2)
        self.conv_block4 = Block(256, 512, pool=1)

    def forward(self, frames: Tensor) -> Tensor:
        x = self.conv_block2(self.conv_block1(frames[:, None]))
        x = self.conv_block4(self.conv_block3(x))
        embedding: Tensor = x.mean(3).amax(2)  # over bands, then over time
        return embedding


def _checkpoint() -> Path:
    """The weights in the installed package, found without importing it."""
    spec = importlib.util.find_spec("aisfx")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "models" / "checkpoint.pth"
        if path.is_file():
            return path
    raise UnknownEmbedder(
        f"expected the weights of the package aisfx, got none on this machine; run '{INSTALL}'"
    )


def _read_weights(path: Path) -> Mapping[str, Tensor]:
    """The embedding network of the checkpoint, without its nine classifiers."""
    # Beside the tensors the file holds a table of class counts as NumPy scalars, under the name
    # that NumPy 1 had for them. Those types are let in; nothing else of pickle is.
    scalar: Any = np.int64(0).__reduce__()[0], "numpy.core.multiarray.scalar"
    with torch.serialization.safe_globals([scalar, np.dtype, type(np.dtype(np.int64))]):
        weights, _classes = torch.load(path, map_location="cpu", weights_only=True)
    prefix = "embedding_net."
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
