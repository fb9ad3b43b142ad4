"""What a sweep recommends, and how adherence is measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.sounds import RATE, tune

from anechoic import TrainingIndex, embedder
from anechoic.audit import TrainingSet
from anechoic.audit.html.sweep import render_sweep
from anechoic.audit.sweep import Cell, Setting, Sweep, sweep
from anechoic.embedders.text import cosine_to_text
from anechoic.errors import BadSetting
from anechoic.index import Sound
from anechoic.verdict import Rule

RULE = Rule("nearest", 0.9, "it was given")


def cell(weight: float, copies: int, adherence: float | None, lost: int = 0) -> Cell:
    setting = Setting("m", 4.0, None, "l", weight)
    reasons = ("a: too loud",) * lost
    return Cell(setting, 50, copies, None, adherence, None, "", reasons)


def swept(*cells: Cell) -> Sweep:
    return Sweep(cells, RULE, "i", 50, 1, "a judge")


def test_the_fewest_copies_come_first_then_adherence_then_the_largest_weight() -> None:
    few, better = cell(0.4, 0, 0.5), cell(0.6, 0, 0.9)
    as_good, copying = cell(0.7, 0, 0.89), cell(1.0, 9, 1.0)
    found = swept(few, better, as_good, copying)
    assert found.best is as_good
    assert found.sentence == (
        "m + l at weight 0.7, scale 4: 0 copies of 50, adherence 0.89, 89% of the highest here"
    )
    assert swept(few, better, copying).best is better
    assert swept(copying).sentence.startswith("Every setting copies; the least m + l at weight 1")
    assert swept(cell(0.4, 0, None), cell(0.7, 0, None)).best == cell(0.7, 0, None)


def test_a_setting_that_was_not_wholly_examined_is_not_recommended() -> None:
    lost = cell(1.0, 0, 1.0, lost=1)
    whole = cell(0.4, 2, 0.5)
    assert swept(lost, whole).best is whole
    assert swept(lost).best is None
    assert swept(lost).sentence.startswith("NOT JUDGED")
    page = render_sweep(swept(lost, whole))
    assert "a: too loud" in page
    assert page.count("<circle") == 2


def test_markup_in_a_name_is_text() -> None:
    odd = Cell(Setting("<b>m", 4.0), 2, 1, None, 0.5, None, "")
    other = Cell(Setting("n", 4.0), 2, 1, None, 0.6, None, "")
    assert "<b>m" not in render_sweep(swept(odd, other)).partition("</style>")[2]


class Maker:
    """A generator that makes the clip of each prompt, quieter."""

    identity = ("maker",)

    def __call__(self, prompt: str, seed: int) -> tuple[torch.Tensor, int]:
        return 0.5 * tune(int(prompt)), RATE


def test_adherence_is_measured_once_a_sound_and_its_mean_is_of_what_is_known(
    tmp_path: Path,
) -> None:
    embed = embedder("magmel")
    clips = [Sound(f"{i}.wav", str(i), tune(i), RATE) for i in range(3)]
    training = TrainingSet(TrainingIndex.build(clips, embed, thresholds={"copy": 0.9}))
    calls = []

    def judge(wav: torch.Tensor, sample_rate: int, prompt: str) -> float | None:
        calls.append(prompt)
        return None if prompt == "0" else float(prompt)

    for _ in range(2):
        found = sweep(
            [Setting("m", 4.0)], lambda setting: Maker(), training, embed, ["0", "1", "2"],
            adherence=judge, measured_by="a judge", work=tmp_path,
        )  # fmt: skip
    (only,) = found.cells
    assert (only.copies, only.sounds, only.adherence) == (3, 3, 1.5)
    assert only.share is not None
    assert (only.share.value, only.share.high) == (1.0, 1.0)
    assert calls == ["0", "1", "2"]
    training.index.thresholds.clear()
    with pytest.raises(BadSetting, match="calibrate it with"):
        sweep([Setting("m", 4.0)], lambda setting: Maker(), training, embed, ["0"], work=tmp_path)


def test_an_embedder_of_sound_and_text_measures_by_their_cosine() -> None:
    class Both:
        def __call__(self, wav: torch.Tensor, sample_rate: int) -> torch.Tensor:
            return torch.tensor([[0.6, 0.8]])

        def text(self, captions: list[str]) -> torch.Tensor:
            return torch.tensor([[1.0, 0.0]])

    measure = cosine_to_text(Both())
    assert measure is not None
    assert measure(tune(0), RATE, "a tune") == pytest.approx(0.6)
    assert cosine_to_text(embedder("magmel")) is None
