"""The name of a network whose weights adapters changed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from anechoic.engine.model import SEPARATOR, weights_fingerprint

RECORD = "anechoic_adapters"  # the attribute of a network that names its adapters


@dataclass
class AdapterRecord:
    """What is known of the adapters in the weights of a network."""

    base: str  # the fingerprint without them
    adapters: tuple[str, ...] = ()  # the fingerprints of those with a weight other than 0
    weights: str = ""  # the fingerprint of the weights with them in


def network_fingerprint(network: nn.Module) -> str:
    """The name of a network, followed by those of its adapters: "base+adapter+adapter".

    Weights that were changed since the adapters were applied have a name of their own: what they
    are made of is then unknown.
    """
    weights = weights_fingerprint(network)
    record = getattr(getattr(network, "_orig_mod", network), RECORD, None)
    if isinstance(record, AdapterRecord) and record.weights == weights:
        return SEPARATOR.join((record.base, *record.adapters))
    return weights
