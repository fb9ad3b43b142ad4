"""The guards that the bench compares, each with the model that its settings were tuned on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Origin = Literal["no settings", "defaults", "tuned here", "not tuned here", "a term"]


@dataclass(frozen=True)
class NamedGuard:
    """A guard under a name of its own.

    Args:
        label: what tables call it.
        text: the method and its settings, as `measure.guidance` reads them.
        tuned_on: the models on which its settings were chosen, whose prompts of even rows were
            used for that; empty: on none.
        has_settings: False if there is nothing to choose.
        term: a part of another guard, which is there for a claim and is nothing to choose.
    """

    label: str
    text: str
    tuned_on: Sequence[str] = ()
    has_settings: bool = True
    term: bool = False

    def origin(self, model: str) -> Origin:
        """Where the settings come from, as seen from a model."""
        if self.term:
            return "a term"
        if not self.has_settings:
            return "no settings"
        if not self.tuned_on:
            return "defaults"
        return "tuned here" if model in self.tuned_on else "not tuned here"


DEMO = ("demo",)
_GATE = "lambda_min=0.5,lambda_max=0.6,gradient=x0,start=LogSNR:-2,every=5"


def _amg(label: str, c1: float, c2: float, c3: float, gate: str = _GATE) -> NamedGuard:
    text = f"amg:c1={c1:g},c2={c2:g},c3={c3:g},{gate}"
    return NamedGuard(label, text, DEMO, term=True)


NAMED: dict[str, NamedGuard] = {
    "none": NamedGuard("unguarded", "none", has_settings=False),
    # it was worked out on two models; what it has of numbers is the same on every model
    "auto": NamedGuard("auto", "auto", ("demo", "drums"), has_settings=False),
    "projection": NamedGuard("projection", "projection", has_settings=False),
    "amg": NamedGuard("AMG, defaults", "amg"),
    "volume": NamedGuard("Gram volume, defaults", "volume"),
    "amg-tuned": NamedGuard("full AMG", f"amg:c1=4,c2=3,c3=600,{_GATE}", DEMO),
    "volume-tuned": NamedGuard(
        "Gram volume", "volume:strength=100,k=4,threshold=0.55,gradient=x0", DEMO
    ),
    "static": NamedGuard("static transition", "static:before=0,at=LogSNR:1.5", DEMO),
    "dynamic": NamedGuard("dynamic transition", "dynamic:before=0,fall=0.15", DEMO),
    "opposite": NamedGuard("opposite guidance", "static:before=-1,at=LogSNR:-1", DEMO),
    "dissimilarity": _amg("AMG: dissimilarity", 0, 0, 600),
    "despecification": _amg("AMG: despecification", 4, 0, 0),
    "deduplication": _amg("AMG: caption deduplication", 0, 3, 0),
    "without-dissimilarity": _amg("AMG without dissimilarity", 4, 3, 0),
    "without-despecification": _amg("AMG without despecification", 0, 3, 600),
    "without-deduplication": _amg("AMG without caption deduplication", 4, 0, 600),
    "amg-weak": _amg("full AMG, c3 = 100", 4, 3, 100),
    "dissimilarity-weak": _amg("AMG: dissimilarity, c3 = 100", 0, 0, 100),
    "amg-open": _amg("full AMG, gate always open", 4, 3, 600,
                     "lambda_min=-1,lambda_max=-1,gradient=x0"),
    "amg-constant": _amg("full AMG, constant threshold", 4, 3, 600, f"schedule=constant,{_GATE}"),
    "early": NamedGuard("guidance from before the fall on", "static:before=0,at=LogSNR:-4.5",
                        DEMO, term=True),
    # plain guidance, bit for bit, which also records the distance of the two predictions
    "cfg": NamedGuard("unguarded, recorded", "cfg", has_settings=False, term=True),
    # the same, which also compares its estimates with the index from the first step on
    "watched": NamedGuard("unguarded, compared", "auto:opens=0.9999,start=LogSNR:-99",
                          has_settings=False, term=True),
}  # fmt: skip


def label(name: str) -> str:
    """What tables call a guard."""
    return NAMED[name].label if name in NAMED else name


def origin(name: str, model: str) -> str:
    """Where a guard's settings come from, as seen from a model; a text's settings are given."""
    return NAMED[name].origin(model) if name in NAMED else "given"
