"""Which pipelines can be guarded."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from anechoic.errors import UnsupportedPipeline
from anechoic.hf.adapters import ADAPTERS
from anechoic.hf.connection import Connection

__all__ = ["ADAPTERS", "adapter_for", "fingerprint"]

REFUSED = {  # pipelines that one would expect here, and why they are not
    "MusicLDMPipeline": "it is deprecated in diffusers and cannot encode a prompt with "
    "transformers 5, with a guard or without; use AudioLDM2Pipeline, which has a music model "
    "('cvssp/audioldm2-music')",
}


def adapter_for(pipe: Any) -> Connection:
    """The pipeline and its row of the table: its network, its sample rate.

    Raises:
        UnsupportedPipeline: its class is not in the table.
    """
    for cls in type(pipe).__mro__:
        if cls.__name__ in ADAPTERS:
            return Connection(pipe, ADAPTERS[cls.__name__])
    raise UnsupportedPipeline(unsupported(type(pipe).__name__))


def unsupported(name: str) -> str:
    """Why a class of pipelines cannot be guarded, in a sentence."""
    if name in REFUSED:
        return f"{name} cannot be guarded: {REFUSED[name]}"
    return f"one of the pipelines {', '.join(ADAPTERS)} was expected, got {name}"


def fingerprint(pipe: Any) -> str:
    """A short name of the network's weights, the same in every number format.

    It is made of the signs of the weights, which casting keeps.

    An index can carry the fingerprint of the model whose training set it is.
    """
    network = adapter_for(pipe).network
    network = getattr(network, "_orig_mod", network)  # of torch.compile
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        signs = torch.signbit(value.flatten()[:1024]).cpu().numpy()
        digest.update(f"{name}{tuple(value.shape)}".encode() + signs.tobytes())
    return digest.hexdigest()[:16]
