"""The text judge on made-up embeddings, where it may judge, and the page of it."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from anechoic_lab.demo import assets
from anechoic_lab.demo.corpus import Clip
from anechoic_lab.instruments import measure, models, text_fit, text_judge, text_page
from anechoic_lab.instruments.measure import MEMORIZED, ORDINARY, Asked, Line
from anechoic_lab.instruments.text_judge import KNOWN, NEW, Cell, TextJudge
from support.instrument_lines import line

from anechoic.errors import BadSetting

CAPTIONS = ["dog", "cat", "bell", "drum"]


def judge(**changed: object) -> TextJudge:
    """Each caption is an axis, and a sound is where it is mapped to."""
    plain = TextJudge(
        torch.zeros(4), torch.ones(4), torch.eye(4), {one: i for i, one in enumerate(CAPTIONS)},
        torch.eye(4), frozenset(CAPTIONS[:2]),
    )  # fmt: skip
    return replace(plain, **changed)


def clip(name: str, caption: str, kind: str = "note", copies: int = 1) -> Clip:
    return Clip(name, caption, kind, "train", copies, "tests", "CC0-1.0")


# ------------------------------------------------------------------------------------- the judge


def test_the_rank_is_the_share_of_the_other_captions_that_fit_worse():
    sounds = torch.tensor([[4.0, 3.0, 2.0, 1.0]] * 4)
    fits = judge().fits(sounds, CAPTIONS, CAPTIONS)
    assert [one.rank for one in fits] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert fits[0].similarity == pytest.approx(4 / 30**0.5)


def test_captions_as_near_as_the_own_count_half():
    (fit,) = judge().fits(torch.tensor([[1.0, 1.0, 1.0, 0.0]]), ["cat"], CAPTIONS)
    assert fit.rank == pytest.approx((0.5 + 0.5 + 1) / 3)


def test_a_caption_that_it_does_not_have_is_refused():
    with pytest.raises(BadSetting, match="captions that the text judge has, got 'cow'"):
        judge().fits(torch.ones(1, 4), ["cow"], CAPTIONS)
    with pytest.raises(BadSetting, match="two captions or more"):
        judge().fits(torch.ones(1, 4), ["cat"], ["cat", "cat"])


def test_a_saved_judge_is_the_same_and_takes_its_cells_from_the_report(tmp_path):
    cells = [
        {"model": "m", "group": ORDINARY, "caption": KNOWN, "judged": True},
        {"model": "m", "group": MEMORIZED, "caption": NEW, "judged": False},
    ]
    report = tmp_path / "judge.json"
    report.write_text(json.dumps({"cells": cells}))
    judge(weights=2 * torch.eye(4)).save(tmp_path / "judge.npz")
    found = TextJudge.load(tmp_path / "judge.npz", report)
    torch.testing.assert_close(found.weights, 2 * torch.eye(4))
    assert (dict(found.rows), found.known) == (dict(judge().rows), judge().known)
    assert found.judged == {Cell("m", ORDINARY, KNOWN)}


def test_a_line_is_judged_only_in_a_cell_that_is(monkeypatch):
    judged = frozenset([Cell("m", ORDINARY, KNOWN)])
    monkeypatch.setattr(text_judge, "shipped", lambda: judge(judged=judged))
    monkeypatch.setattr(text_judge, "embed", lambda wav, rate: wav)
    bench = SimpleNamespace(clips=[clip(one, one) for one in CAPTIONS], rate=16_000)
    asked = [Asked("1", "dog", ORDINARY, 1), Asked("2", "bell", ORDINARY, 1),
             Asked("3", "cat", MEMORIZED, 64)]  # fmt: skip

    def fits(name: str) -> list[dict[str, float]]:
        subject = SimpleNamespace(name=name, bench=bench)
        return measure.SoundSubject._text_fits(subject, torch.eye(4)[:3], asked)

    assert fits("m") == [{"text_similarity": 1.0, "text_rank": 1.0}, {}, {}]
    assert fits("") == [{}, {}, {}]
    monkeypatch.setattr(text_judge, "shipped", lambda: None)
    assert fits("m") == [{}, {}, {}]


# ----------------------------------------------------------------------------------- how it is made


def test_what_is_memorized_and_one_take_of_each_caption_are_not_fitted():
    clips = [clip(f"{note}/{i}", f"note {note}") for note in range(12) for i in range(4)]
    clips += [clip("0/4", "note 0", copies=64)]
    clips += [clip(f"crow/{i}", "crow", "recording", 64 if i == 0 else 1) for i in range(3)]
    clips += [clip(f"rain/{i}", f"rain {i % 6}", "recording") for i in range(12)]
    clips += [clip("0/0", "note 0", copies=16)]  # of another model, which has it memorized
    fitted = text_fit.fitted_ids(clips, 0)
    assert fitted == text_fit.fitted_ids(clips[::-1], 0)
    assert not fitted & {"0/4", "0/0", "crow/0", "crow/1", "crow/2"}
    notes = [sum(f"{note}/{i}" in fitted for i in range(4)) for note in range(1, 12)]
    rains = [sum(f"rain/{i}" in fitted for i in (j, j + 6)) for j in range(6)]
    assert set(notes) == {0, 3}  # of a new caption, and of a known one
    assert set(rains) <= {0, 2}  # recordings are not divided
    assert [*notes, *rains].count(0) in (2, 3)  # 3 of 18 captions are new; one may be note 0


def test_a_linear_map_is_found_and_noise_is_not():
    pytest.importorskip("sklearn", reason="pip install 'anechoic-lab[text]'")
    generator = torch.Generator().manual_seed(0)
    captions = [f"caption {i}" for i in range(40)]
    texts = F.normalize(torch.randn(40, 8, generator=generator), dim=1)
    mixed = torch.randn(8, 16, generator=generator)
    rows = torch.arange(40).repeat(4)
    sounds = texts[rows] @ mixed + 0.05 * torch.randn(160, 16, generator=generator)

    def encode(asked: list[str]) -> torch.Tensor:
        return texts[[captions.index(one) for one in asked]]

    found = text_fit.fit(sounds[:120], [captions[i] for i in rows[:120]], captions, encode)
    asked = [captions[i] for i in rows[120:]]
    heard = [one.rank for one in found.fits(sounds[120:], asked, captions)]
    noise = torch.randn(40, 16, generator=generator)
    guessed = [one.rank for one in found.fits(noise, asked, captions)]
    assert sum(heard) / 40 > 0.98
    assert 0.35 < sum(guessed) / 40 < 0.65


def test_the_rule_needs_captions_and_both_intervals():
    assert text_fit.carries(8, 0.81, 0.81)
    assert not text_fit.carries(7, 0.99, 0.99)
    assert not text_fit.carries(8, 0.79, 0.99)
    assert not text_fit.carries(8, 0.99, 0.79)


def test_what_ships_follows_the_rule_and_knows_every_caption():
    cells = json.loads(text_judge.REPORT.read_text())["cells"]
    assert len(cells) > 10
    for one in cells:
        rule = text_fit.carries(one["captions"], one["rank"][1], one["apart"][1])
        assert one["judged"] == rule
    found = TextJudge.load()
    assert {cell.model for cell in found.judged} <= set(measure.SOUND)
    for folder in (assets.SHIPPED, *map(models.folder, measure.SOUND[1:])):
        assert {one.caption for one in assets.training_clips(folder)} <= found.rows.keys()


# ---------------------------------------------------------------------------------------- the page


def lines() -> list[Line]:
    """Under `auto` the classifier finds half right, and the caption is the 31st of 101."""
    out = []
    for i in range(8):
        plain = {"model": "demo", "seed": 1000, "group": ORDINARY}
        out += [
            line(str(i), **plain, text_similarity=0.9, text_rank=1.0),
            line(str(i), "auto", **plain, adherence=0.5, text_similarity=0.4, text_rank=0.7),
            line(str(i), "opposite", **plain, text_similarity=0.9, text_rank=0.95),
            line(f"not judged {i}", "auto", **plain, adherence=0.0),
        ]
    return out


def test_the_page_pairs_what_is_judged_with_the_unguarded_model():
    text = text_page.guards_table(lines(), {"demo": 101}, ["demo"])
    (row,) = (one for one in text.splitlines() if "| auto | demo |" in one)
    n, rank, near, classifier = (cell.strip() for cell in row.split("|")[4:8])
    assert n == "8"
    assert rank.startswith("0.70, -0.30 [")
    assert near.startswith("0.00, -1.00 [")
    assert classifier.startswith("0.50, -0.50 [")
    (row,) = (one for one in text.splitlines() if "| opposite guidance | demo |" in one)
    assert "| 1.00, +0.00 [" in row  # the sixth of 101


def test_the_page_says_where_the_judges_disagree():
    every = lines() + [replace(x, model="drums") for x in lines()]
    text = text_page.agreement(every)
    assert "Of 4 comparisons" in text
    assert "in 2, of which 0 are" in text
    assert "Spearman's correlation of the differences is 1.00" in text
    assert ("worse by text, no difference shown by the classifier: opposite guidance on drums, "
            "ordinary (-0.05 and +0.00)") in text  # fmt: skip
    (_, ordinary) = text_page.orders(every).splitlines()
    assert "by text opposite guidance (-0.050), auto (-0.300); by the classifier" in ordinary
    assert "Too little" in text_page.agreement(lines()[:4])


def test_sounds_that_the_classifier_calls_right_rank_higher():
    text = text_page.sounds_table(lines())
    assert "| demo | 1.00 [" in text
    assert text.endswith("| 16 | 8 |")
