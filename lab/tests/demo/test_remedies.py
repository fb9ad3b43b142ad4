"""The trainings with remedies: each goes on where it was, and figures are the log's."""

from __future__ import annotations

import json

import pytest
import torch
from anechoic_lab.demo import remedies, remedies_plot, watch

from anechoic.errors import BadSetting
from anechoic.training import Repeats


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(remedies, "GROUPS", ((64, 2), (16, 2), (4, 2), (1, 2)))
    monkeypatch.setattr(remedies, "HELD_OUT", 99)
    monkeypatch.setattr(remedies, "ORDINARY", 2)
    monkeypatch.setattr(watch, "SAMPLER_STEPS", 3)
    monkeypatch.setattr(remedies, "REMEDIES", {"plain": remedies.Remedied,
                                               "reweighting": remedies.Reweighted})  # fmt: skip
    remedies.material.cache_clear()
    yield
    remedies.material.cache_clear()


@pytest.mark.slow
def test_it_trains_with_each_remedy_once(small, tmp_path, command) -> None:
    with pytest.raises(BadSetting, match="expected a remedy among plain, reweighting"):
        remedies.run(tmp_path, ["prayer"])
    remedies.run(tmp_path, ["plain"], steps=2)
    with pytest.raises(BadSetting):
        remedies.outcomes(tmp_path, 2)
    steps: list[str] = []
    remedies.run(tmp_path, steps=2, report=lambda what, done, total: steps.append(what))
    assert set(steps) == {"reweighting"}
    plain, weighted = remedies.outcomes(tmp_path, 2)
    assert (plain.name, weighted.name, plain.step) == ("plain", "reweighting", 2)
    assert plain.copies.n == 2
    code, out, _ = command("demo", "remedies", "-o", tmp_path, "--steps", "2", "--json")
    told = json.loads(out)
    assert (code, [one["name"] for one in told["lines"]]) == (0, ["plain", "reweighting"])
    assert [(one["step"], list(one["copies"])) for one in told["curve"]][-1] == (
        2, ["64", "16", "4"]
    )  # fmt: skip
    code, out, _ = command("demo", "remedies", "-o", tmp_path, "--steps", "2")
    assert code == 0
    assert "64 times" in out
    assert "reweighting" in out
    remedies_plot.draw(tmp_path, tmp_path / "steps.svg", 2)
    assert "<svg" in (tmp_path / "steps.svg").read_text()


def test_remedies_act_on_repeated_clips_alone() -> None:
    repeats = Repeats({"often": 50})
    ids, generator = ["often", "once"] * 200, torch.Generator().manual_seed(0)
    dropped = repeats.dropped(ids, generator)
    assert 0.85 < dropped[::2].float().mean() < 0.95
    assert not dropped[1::2].any()
    encoded = torch.ones(400, 3, 4)
    noised = repeats.noised(encoded, ids, generator, level=0.5)
    assert torch.equal(noised[1::2], encoded[1::2])
    assert (noised[::2] - 1).std() == pytest.approx(0.5, abs=0.02)
    assert repeats.weights(ids).mean() == pytest.approx(1.0)
