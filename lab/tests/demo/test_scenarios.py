"""The demo as the task of a bench, and its other scenarios."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from anechoic_lab.bench import Method, Plan, Request
from anechoic_lab.demo import assets, scenarios
from anechoic_lab.demo.judge import ClipScorer
from anechoic_lab.demo.methods import METHODS, guidance
from anechoic_lab.demo.show import prompts_to_tune
from anechoic_lab.demo.task import ORDINARY, open_demo

from anechoic.diffusers import fingerprint
from anechoic.errors import AnechoicError, BadSetting
from anechoic.guidance import registry


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenarios")
    scenarios.train(out, steps=2)
    return out


@pytest.fixture(scope="module")
def task(trained: Path):
    return open_demo(scenarios=str(trained), quality="magmel")


def test_each_scenario_memorizes_what_it_says() -> None:
    clips = assets.training_clips()
    small = [c for c in scenarios.SCENARIOS["small-set"].clips(clips) if c]
    assert Counter(c.kind for c in small) == {"note": 12, "recording": 12}
    assert len({c.caption for c in small}) == 24
    short = [c for c in scenarios.SCENARIOS["short-captions"].clips(clips) if c]
    assert set(Counter(c.caption for c in short).values()) == {4}
    assert len(short) == 48
    several = [c for c in scenarios.SCENARIOS["duplicated-captions"].clips(clips) if c]
    assert len(several) == len(clips)
    often = Counter(c.caption for c in several if c.copies > 1)
    assert len(often) == 12
    assert set(often.values()) == {3}


def test_no_scenario_memorizes_what_the_shipped_model_does() -> None:
    clips = assets.training_clips()
    for scenario in scenarios.SCENARIOS.values():
        changed = scenario.clips(clips)
        assert not any(c and c.copies > 1 and clips[i].copies > 1 for i, c in enumerate(changed))


@pytest.mark.slow
def test_a_trained_scenario_is_another_model_and_is_kept(trained: Path) -> None:
    prints = {fingerprint(scenarios.load(trained / name)[0]) for name in scenarios.SCENARIOS}
    assert len({*prints, fingerprint(assets.pipeline())}) == 4
    before = {f: f.stat().st_mtime_ns for f in trained.rglob("*") if f.is_file()}
    scenarios.train(trained, steps=2)
    assert before == {f: f.stat().st_mtime_ns for f in trained.rglob("*") if f.is_file()}


def test_a_scenario_of_another_model_or_none_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(AnechoicError, match="has no trained scenario"):
        scenarios.load(tmp_path / "small-set")
    with pytest.raises(AnechoicError, match="expected a scenario among small-set"):
        scenarios.train(tmp_path, ["large-set"])
    with pytest.raises(BadSetting, match="has no trained scenario"):
        open_demo(scenarios=str(tmp_path))
    folder = tmp_path / "small-set"
    folder.mkdir()
    about = json.loads((trained / "small-set" / scenarios.CLIPS).read_text())
    (folder / scenarios.CLIPS).write_text(json.dumps({**about, "base": {}}))
    with pytest.raises(AnechoicError, match="began from another demo model"):
        scenarios.load(folder)


def test_the_splits_share_no_prompt_and_the_report_none_that_was_tuned_on(task) -> None:
    clips = assets.training_clips()
    tuned = {clip.caption for part in prompts_to_tune(clips) for clip in part}
    for scenario in task.scenarios:
        asked = {split: task.prompts(scenario, split) for split in ("tune", "report")}
        captions = {split: {p.caption for p in prompts} for split, prompts in asked.items()}
        assert not captions["tune"] & captions["report"]
        for prompts in asked.values():
            groups = Counter(prompt.group for prompt in prompts)
            assert groups["ordinary"] == ORDINARY
            assert groups["memorized"] >= 6
    assert not tuned & {p.caption for p in task.prompts(scenarios.SHIPPED, "report")}
    with pytest.raises(BadSetting, match="tune and report"):
        task.prompts(scenarios.SHIPPED, "test")


def test_the_bench_runs_the_demos_guards_at_their_shipped_settings(task) -> None:
    entries = {method.name: method for method in Plan.load("methods").methods}
    bench = assets.index()
    for name, shipped in METHODS.items():
        if not shipped.guard:
            assert task.guidance(scenarios.SHIPPED, entries[name]) is None
            continue
        made = task.guidance(scenarios.SHIPPED, entries[name])
        own = guidance(name, bench, made.embedder if hasattr(made, "embedder") else None)
        for field in registry.settings(type(own)):
            assert getattr(made, field.name) == getattr(own, field.name)


def test_a_generation_is_heard_beside_its_captions_own_clip(task) -> None:
    prompts = task.prompts(scenarios.SHIPPED, "report")[:2]
    none = Method("none", "unguarded")
    pairs = task.pairs(Request(scenarios.SHIPPED, prompts, 0, none, 25))
    assert [pair.id for pair in pairs] == [prompt.id for prompt in prompts]
    assert all(pair.made.shape == pair.clip.shape for pair in pairs)
    judge = ClipScorer.of("mel", torch.cat([pair.clip for pair in pairs]))
    scores = judge(torch.cat([pair.made for pair in pairs]))
    assert scores.argmax(1).tolist() == [0, 1]  # the model gives each one back
    assert scores.diagonal().min() > 0.9


def test_rows_are_judged_as_the_demo_judges(task) -> None:
    prompts = task.prompts(scenarios.SHIPPED, "report")
    asked = [prompts[0], prompts[-1]]
    plain = task.generate(Request(scenarios.SHIPPED, asked, 0, Method("none", "none")))
    assert plain[0].copied
    assert plain[0].scores["mel"] > 0.9
    assert not plain[1].copied
    assert [row.evaluations for row in plain] == [100.0, 100.0]
    short, guarded = (
        task.generate(Request(scenarios.SHIPPED, asked, 0, method, 5))
        for method in (Method("none", "none"), Method("cfg", "cfg", "cfg", {}))
    )
    assert [row.similarity for row in short] == [row.similarity for row in guarded]
    assert [row.evaluations for row in guarded] == [10.0, 10.0]


def test_a_fine_tuned_model_has_the_index_of_its_own_captions(task) -> None:
    guide = task.guidance("short-captions", Method("amg", "amg", "amg", {"gradient": "x0"}))
    prompt = task.prompts("short-captions", "report")[0]
    assert prompt.caption in guide.index.captions
    rows = task.generate(Request("short-captions", [prompt], 0, Method("amg", "amg", "amg"), 3))
    assert len(rows) == 1  # the guard took the index for this model's
    assert len({task.fingerprint(name) for name in task.scenarios}) == 4


def test_reference_and_baseline_are_of_real_sound(task, monkeypatch) -> None:
    monkeypatch.setattr("anechoic_lab.demo.task.REFERENCE", 16)
    reference = torch.tensor(task.reference(scenarios.SHIPPED))
    torch.testing.assert_close(reference.norm(dim=1), torch.ones(len(reference)))
    baseline = torch.tensor(task.baseline(scenarios.SHIPPED))
    assert len(baseline) == len(assets.training_clips())
    assert 0.5 < baseline.mean() < 1.0
