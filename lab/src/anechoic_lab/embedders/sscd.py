"""SSCD: the image copy-detection descriptor in which replication by diffusion is reported."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anechoic.errors import UnknownEmbedder
from anechoic.types import Embedder
from anechoic_lab.embedders.pixels import prepare, resize, standardise

FILE = "sscd_disc_mixup.torchscript.pt"  # the one its authors recommend
URL = f"https://dl.fbaipublicfiles.com/sscd-copy-detection/{FILE}"
SHORT_EDGE = 288
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class SSCD(Embedder):
    """A network trained to tell copies of an image, however altered, from other images.

    The authors' own TorchScript file behind their documented preprocessing: the shorter edge to
    288 pixels, bilinear and antialiased, standardised by ImageNet's mean and deviation. It is
    torch from end to end, and does not round to 256 levels. By the authors' figure, pairs of the
    DISC set with a cosine over 0.75 are copies in 90 % of cases (sscd_disc_mixup).

    Published tables are not all made this way: some resize to 256 pixels and crop 224, with other
    means. Compare with figures that say how they were made.

    The network is read anew when images come from another device, and computes in float32.

    Args:
        source: a file "*.torchscript.pt" of the authors; by default sscd_disc_mixup in the
            folder where torch.hub keeps checkpoints.

    Attributes:
        name: "sscd" or "sscd:/the/file".
        revision: of the file, its SHA-256, cut to 16 digits; the same wherever it lies.

    Raises:
        UnknownEmbedder: no such file, or it is no network that embeds images.

    Source: Pizzi et al., 2022 (arXiv:2202.10261).
    """

    sample_rate = 0  # of an image
    runs_code = True  # a TorchScript file is a program

    def __init__(self, source: str = "") -> None:
        self._file = _find(source)
        self.name = f"sscd:{self._file}" if source else "sscd"
        with self._file.open("rb") as file:
            self.revision = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        self._device = torch.device("cpu")
        self._model = _read(self._file, self._device)
        self.dim = _dimension(self._model, self._file)

    def __call__(self, images: Tensor, sample_rate: int = 0) -> Tensor:
        """Embed images [b, 3, h, w] in [0, 1], of any size: unit vectors [b, dim]."""
        pixels = self.features(prepare(images, sample_rate).float())
        if pixels.device != self._device:
            # A TorchScript file may hold weights as constants, which `to` would not move.
            self._device, self._model = pixels.device, _read(self._file, pixels.device)
        return F.normalize(_run(self._model, pixels), dim=1)

    def features(self, images: Tensor) -> Tensor:
        """What the network sees of images [b, 3, h, w] in [0, 1]."""
        return standardise(resize(images, SHORT_EDGE, "bilinear"), IMAGENET_MEAN, IMAGENET_STD)


def _find(source: str) -> Path:
    default = Path(torch.hub.get_dir(), "checkpoints", FILE)
    file = Path(source).expanduser().resolve() if source else default
    if not file.is_file():
        raise UnknownEmbedder(
            f"expected SSCD's TorchScript file, got none at '{file}'; fetch {URL} and put it at "
            f"'{default}', or name it: 'sscd:/path/to/{FILE}'"
        )
    return file


def _read(file: Path, device: torch.device) -> Any:
    try:
        with torch.inference_mode(False):  # what is kept must serve a gradient later
            model = torch.jit.load(file, map_location=device)
            for weight in model.parameters():
                weight.requires_grad_(False)
    except Exception as error:  # RuntimeError, and whatever an archive of another kind raises
        raise UnknownEmbedder(
            f"expected a TorchScript file of SSCD, got '{file}', which cannot be read as one; of "
            "its authors' three formats take '*.torchscript.pt'"
        ) from error
    return model


def _run(model: Any, pixels: Tensor) -> Tensor:
    # Optimised, TorchScript rewrites itself during its first calls, and their last bits differ.
    with torch.jit.optimized_execution(False):  # type: ignore[attr-defined] # not in its __all__
        embedded: Tensor = model(pixels)
        return embedded


def _dimension(model: Any, file: Path) -> int:
    """How many numbers a descriptor has, from an image of no content."""
    try:
        with torch.no_grad():
            emb = _run(model, torch.zeros(1, 3, 64, 64))
        length = emb.norm(dim=1).item()
    except Exception as error:  # of whatever the file computes
        raise UnknownEmbedder(
            f"expected a network that embeds images [b, 3, h, w], got '{file}', which cannot take "
            "one; fetch SSCD's file again"
        ) from error
    if emb.ndim != 2 or not abs(length - 1) < 1e-3:
        raise UnknownEmbedder(
            f"expected descriptors [b, d] of unit norm, got {list(emb.shape)} of norm {length:g} "
            f"from '{file}'; it is no SSCD: fetch its file again"
        )
    return emb.shape[1]
