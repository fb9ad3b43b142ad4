"""A second judge of adherence: how near a sound is to its prompt, in the space of sentences.

A linear map takes the sound embedding `aisfx` into the space of the sentence embedding MiniLM. It
was fitted on real training clips with their captions (`anechoic_lab.instruments.text_fit`), and is
data of this package, as are the embeddings of all captions. No model or guard uses either embedder.

The judge speaks only where it was right on real sound: `text_fit` decides that by a rule for each
*cell*: a model, a group of its prompts, and whether the map was fitted on clips of the caption.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anechoic.embedders import embedder
from anechoic.errors import BadSetting, UnknownEmbedder
from anechoic.types import Embedder

FILE = Path(__file__).parent / "data" / "text-judge.npz"
REPORT = FILE.with_suffix(".json")  # what `text_fit` measured on real sound, and what it decided
SOUNDS = "aisfx"
BLOCK = 64  # clips that are embedded at once
KNOWN, NEW = "known", "new"


class Cell(NamedTuple):
    """What the rule decides on."""

    model: str
    group: str  # of prompts: `measure.MEMORIZED` or `measure.ORDINARY`
    caption: str  # KNOWN: the map was fitted on other clips of the caption; NEW: on none


class TextFit(NamedTuple):
    """How well a sound fits its caption."""

    similarity: float  # cosine of the mapped sound and the caption
    rank: float  # the share of the other captions that are less similar: 1 the best, 0.5 chance


@dataclass(frozen=True, eq=False)
class TextJudge:
    """Compares sounds with captions.

    Args:
        mean, spread: of the sound embeddings, [a].
        weights: the map from them, standardised, to centred sentence embeddings, [a, b].
        rows: the row of each caption in `texts`.
        texts: centred sentence embeddings of unit norm, [captions, b].
        known: captions on whose clips the map was fitted.
        judged: the cells that it judges.
    """

    mean: Tensor
    spread: Tensor
    weights: Tensor
    rows: Mapping[str, int]
    texts: Tensor
    known: frozenset[str]
    judged: frozenset[Cell] = field(default_factory=frozenset)

    @classmethod
    def load(cls, file: Path = FILE, report: Path = REPORT) -> TextJudge:
        """The judge that ships with the package."""
        with np.load(file) as found:
            part = {name: torch.from_numpy(found[name].astype("float32"))
                    for name in ("mean", "spread", "weights", "texts")}  # fmt: skip
            rows = {str(caption): row for row, caption in enumerate(found["captions"])}
            known = frozenset(str(found["captions"][row]) for row in found["known"])
        cells = json.loads(report.read_text())["cells"]
        judged = frozenset(
            Cell(one["model"], one["group"], one["caption"]) for one in cells if one["judged"]
        )
        return cls(rows=rows, known=known, judged=judged, **part)

    def save(self, file: Path) -> None:
        """Write the map and the captions in half precision."""
        captions = sorted(self.rows, key=self.rows.__getitem__)
        known = [row for row, caption in enumerate(captions) if caption in self.known]
        part = {name: getattr(self, name).numpy().astype("float16")
                for name in ("mean", "spread", "weights", "texts")}  # fmt: skip
        np.savez_compressed(file, captions=np.array(captions), known=np.array(known), **part)

    def cell(self, model: str, group: str, caption: str) -> Cell:
        """The cell of a prompt."""
        return Cell(model, group, KNOWN if caption in self.known else NEW)

    def fits(self, sounds: Tensor, captions: Sequence[str], among: Sequence[str]) -> list[TextFit]:
        """How well each sound fits its caption, and how that compares with other captions.

        Args:
            sounds: embeddings by `embed`, [n, a].
            captions: the caption of each.
            among: the captions to rank it among, each once; its own may be one of them.

        Raises:
            BadSetting: a caption that the judge does not have, or no other to compare with.
        """
        others = list(dict.fromkeys(among))
        missing = [one for one in (*captions, *others) if one not in self.rows]
        if missing:
            raise BadSetting(
                f"expected captions that the text judge has, got {missing[0]!r}; fit it again with "
                "'python -m anechoic_lab.instruments.text_fit'"
            )
        if len(set(others)) < 2:
            raise BadSetting("expected two captions or more to rank among, got fewer")
        mapped = F.normalize((sounds - self.mean) / self.spread @ self.weights, dim=1)
        every = mapped @ self.texts[[self.rows[one] for one in others]].T
        out = []
        for row, caption in enumerate(captions):
            own = float(mapped[row] @ self.texts[self.rows[caption]])
            rest = every[row, [i for i, one in enumerate(others) if one != caption]]
            lower, same = (rest < own - 1e-6), (rest - own).abs() <= 1e-6
            rank = (lower.float() + 0.5 * same.float()).mean().item()
            out.append(TextFit(own, rank))
        return out


def place(rank: float, among: int) -> int:
    """How many of a model's captions fit better than the own, 0 the best, by the rank among all."""
    return round((1 - rank) * (among - 1))


@torch.no_grad()
def embed(wav: Tensor, rate: int) -> Tensor:
    """Sounds [n, t] as the judge's embeddings [n, 512].

    Raises:
        UnknownEmbedder: the weights of aisfx are not installed.
    """
    encoder = _encoder()
    return torch.cat([encoder(some[:, None], rate) for some in wav.split(BLOCK)])


@cache
def _encoder() -> Embedder:
    return embedder(SOUNDS)


@cache
def shipped() -> TextJudge | None:
    """The judge that ships with the package; None: aisfx is not installed, so nothing is judged."""
    try:
        _encoder()
    except UnknownEmbedder:
        return None
    return TextJudge.load()
