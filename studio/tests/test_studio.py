"""The studio without a browser: what it generates, releases, refuses and says."""

from __future__ import annotations

import json
import time
import tomllib
from copy import copy
from dataclasses import replace
from inspect import signature
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import numpy as np
import pytest
import torch
from anechoic_studio import cards, cli, page
from anechoic_studio.background import END, PROBLEM, in_background
from anechoic_studio.studio import GUARDED, PLAIN, Request, Studio, nearest
from support import TESTS
from support.sounds import tune
from typer import Typer

from anechoic import audio, embedder
from anechoic.certificate import sidecar, verify
from anechoic.errors import BadSetting, IndexMismatch
from anechoic.index import TrainingIndex
from anechoic.protection import Judge

MEMORIZED, STEPS = "ambient choir", 16


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio.open("demo", tmp_path_factory.mktemp("work"), device="cpu")


@pytest.fixture
def fresh(studio: Studio, tmp_path: Path) -> Studio:
    return replace(studio, work=tmp_path, alone=Lock())


class Posts(list[tuple[str, Any]]):
    def __call__(self, place: str, value: Any) -> None:
        self.append((place, value))

    def last(self, place: str) -> Any:
        return [value for where, value in self if where == place][-1]


def asked(prompt: str = MEMORIZED, guard: str = "auto") -> Request:
    return Request(prompt, 0, STEPS, 2.0, guard)


@pytest.fixture(scope="module")
def generated(studio: Studio) -> Posts:
    studio.generate(asked(), posts := Posts())
    return posts


# ------------------------------------------------------------------------------------ generate


def test_the_guarded_sound_is_certified_and_its_twin_is_not_for_release(
    generated: Posts, studio: Studio
) -> None:
    guarded, plain = generated.last(GUARDED), generated.last(PLAIN)
    assert guarded.judgement.status == "no copy"
    assert verify(guarded.file, index=studio.judge.index.folder).verified
    assert plain.judgement.status == "copy"
    assert nearest(plain.judgement).clip.caption == MEMORIZED
    assert plain.file is None
    written = {guarded.file, sidecar(guarded.file)}
    assert {path for path in studio.work.rglob("*") if path.is_file()} == written


def test_the_certificate_names_the_guard_and_not_what_watches_it(generated: Posts) -> None:
    made = json.loads(sidecar(generated.last(GUARDED).file).read_text())
    text = json.dumps(made)
    assert "Auto" in text
    assert "Live" not in text
    assert '"scale": "2.0"' in text


def test_similarity_and_gate_are_drawn_while_it_runs(generated: Posts) -> None:
    drawn = [take.curve() for place, take in generated if place == GUARDED]
    lengths = [len(one.progress) for one in drawn if one is not None]
    assert lengths[:4] == [2, 3, 4, 5]
    assert lengths[-1] == STEPS - 1
    assert drawn[-1].gate.any()
    for side in (GUARDED, PLAIN):
        assert np.isfinite(generated.last(side).curve().similarity).any()
    assert {take.done for place, take in generated if place == PLAIN} == {
        number / STEPS for number in range(STEPS + 1)
    }


def test_the_unguarded_twin_is_the_plain_pipeline(generated: Posts, studio: Studio) -> None:
    plain = studio.pipe(
        MEMORIZED, num_inference_steps=STEPS, guidance_scale=2.0, output_type="pt",
        generator=torch.Generator().manual_seed(0), audio_end_in_s=1.024,
    ).audios[0]  # fmt: skip
    assert torch.equal(generated.last(PLAIN).wav, plain)


@pytest.mark.parametrize("reason", ["every sound is a copy", "the index has changed"])
def test_what_may_not_leave_is_neither_heard_nor_written(fresh: Studio, reason: str) -> None:
    if reason == "every sound is a copy":
        fresh.judge = Judge.load("demo", threshold=-1.0)
    else:
        fresh.judge = replace(fresh.judge, changed=lambda: reason)
    fresh.guarded_only = True
    fresh.generate(replace(asked(), steps=4), posts := Posts())
    take = posts.last(GUARDED)
    assert (take.wav, take.file) == (None, None)
    assert take.words.startswith("Nothing is released")
    assert list(fresh.work.rglob("*.wav")) == []
    assert PLAIN not in [place for place, take in posts if take.done]
    assert "What was generated" not in cards.take_card("", take, fresh.judge.training, True)


def test_a_late_start_of_guidance_leaves_the_basin(fresh: Studio) -> None:
    score, status = fresh.explore(asked(), 0.0, Posts())
    assert (score > 0.95, status) == (True, "copy")
    fresh.explore(asked(), 0.9, posts := Posts())
    take = posts.last(PLAIN)
    assert take.judgement.status == "no copy"
    assert take.curve().transition == 15 / STEPS


@pytest.mark.parametrize("name", ["auto", "amg", "static", "cfg"])
def test_every_guard_of_the_list_guards(fresh: Studio, name: str) -> None:
    assert name in fresh.guards
    fresh.guarded_only = True
    fresh.generate(replace(asked("low cello note F# 2", name), steps=5), posts := Posts())
    assert posts.last(GUARDED).done == 1


def test_a_pipeline_that_fails_releases_nothing_and_says_why(fresh: Studio) -> None:
    fresh.pipe = copy(fresh.pipe)
    fresh.pipe.encode_prompt = None  # as a broken component would
    fresh.guarded_only = True
    fresh.generate(replace(asked(), steps=4), posts := Posts())
    take = posts.last(GUARDED)
    assert (take.wav, take.file) == (None, None)
    assert "Nothing is released" in cards.take_card("", take, fresh.judge.training, True)


@pytest.mark.parametrize("prompt", [" ", None])
def test_an_empty_prompt_is_refused(prompt: Any) -> None:
    with pytest.raises(BadSetting, match="empty"):
        Request(prompt, 0, 5, 2.0)


# ---------------------------------------------------------------------------------- background


def test_work_that_is_stopped_ends_and_frees_the_model(fresh: Studio) -> None:
    stopped, alone = Event(), Lock()
    seen: list[dict[str, Any]] = []
    work = in_background(lambda post: fresh.generate(asked(), post), alone, stopped, 0.01)
    for latest in work:
        seen.append(latest)
        stopped.set()
    assert seen[-1][END] is False
    assert GUARDED in seen[0] | seen[1]
    assert list(fresh.work.rglob("*.wav")) == []
    assert alone.acquire(timeout=10)


def test_a_page_that_goes_away_stops_the_work() -> None:
    stopped, alone, posted = Event(), Lock(), []

    def forever(post: Any) -> None:
        while True:
            post("step", len(posted))
            posted.append(1)
            time.sleep(0.001)

    running = in_background(forever, alone, stopped, 0.01)
    next(running)
    running.close()
    assert alone.acquire(timeout=10)


@pytest.mark.parametrize(
    ("error", "words"), [(BadSetting("say more"), "say more"), (KeyError("x"), "KeyError: 'x'")]
)
def test_an_error_is_a_sentence(error: Exception, words: str) -> None:
    def fails(post: Any) -> None:
        raise error

    answers = list(in_background(fails, Lock(), Event(), 0.01))
    assert words in {**answers[-1], **answers[0]}[PROBLEM]
    assert answers[-1][END] is False


# --------------------------------------------------------------------------------------- check


def test_a_file_is_judged_with_where_and_how_sure(studio: Studio, tmp_path: Path) -> None:
    clip = studio.judge.training.sound(0)
    quiet = 0.02 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(1))
    audio.write(tmp_path / "late.wav", torch.cat([quiet, clip.wav], 1), clip.sample_rate)
    take = studio.check(tmp_path / "late.wav")
    card = cards.check_card(take, studio.judge.training)
    assert take.judgement.status == "copy"
    assert "From 0.50 s of the sound and 0.00 s of the clip" in card
    assert "Held-out sound scores as high in at most 0.3% of cases" in card
    assert 'data-lag="0.0000"' not in card
    assert card.count("<audio") == 2


def test_nothing_from_outside_is_read_as_markup(studio: Studio, tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", tune(1), 16_000)
    take = replace(studio.check(tmp_path / "a.wav"), words="<script>alert(1)</script>")
    assert "<script>" not in cards.check_card(take, studio.judge.training)
    assert "<b>" not in cards.problem("<b>") + cards.note("<b>") + cards.progress("<b>", 0.5)


# --------------------------------------------------------------------------------------- index


def test_an_index_of_ones_own_is_opened_again_after_a_change(fresh: Studio, tmp_path: Path) -> None:
    from anechoic.index import edit

    held = tmp_path / "own.index"
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(3):
        audio.write(clips / f"{number}.wav", tune(number), 16_000)
    (clips / "metadata.csv").write_text(
        "file_name,caption\n" + "".join(f"{n}.wav,tune {n}\n" for n in range(3))
    )
    TrainingIndex.build(clips, embedder("magmel")).save(held)
    fresh.index_name = str(held)
    assert not Studio.open("demo", tmp_path, str(held)).judge.changed()
    fresh.judge = Judge.load(held)
    assert fresh.editable
    edit.remove(held, lambda clip: clip.id == "0.wav")
    assert "has changed" in fresh.judge.unable() + fresh.judge.changed()
    fresh.reopen()
    assert len(fresh.judge.training.clips) == 2
    assert fresh.judge.changed() == ""


def test_the_index_of_a_model_that_ships_with_it_stays_as_it_is(studio: Studio) -> None:
    assert not studio.editable


def test_a_model_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="'--index'"):
        Studio.open("some/model", tmp_path)
    with pytest.raises(IndexMismatch):
        Studio.open("demo", tmp_path, str(tmp_path / "none"))


# ------------------------------------------------------------------------------------ the page


def labels(studio: Studio) -> set[str]:
    config = page.build(studio).get_config_file()
    return {one["props"].get("label") for one in config["components"] if one["type"] == "tabitem"}


def test_guarded_only_leaves_out_the_tabs_of_unguarded_sound(fresh: Studio) -> None:
    assert labels(fresh) == {"Generate", "Check", "Explore", "Index", "Audit"}
    fresh.guarded_only = True
    assert labels(fresh) == {"Generate", "Check", "Index"}


def test_the_page_offers_no_way_in_besides_itself(fresh: Studio) -> None:
    config = page.build(fresh).get_config_file()
    assert {one["api_visibility"] for one in config["dependencies"]} == {"private"}
    assert page.HOST == "127.0.0.1"


def test_two_pages_take_turns(fresh: Studio) -> None:
    """A guard is of one thread; another page waits until the model is free."""
    order: list[str] = []

    def one(name: str) -> None:
        for latest in in_background(
            lambda post: fresh.generate(replace(asked(), steps=4, guard="cfg"), post),
            fresh.alone, Event(), 0.01,
        ):  # fmt: skip
            assert PROBLEM not in latest
        order.append(name)

    pages = [Thread(target=one, args=(name,)) for name in "ab"]
    for started in pages:
        started.start()
    for started in pages:
        started.join(60)
    assert sorted(order) == ["a", "b"]


def test_the_command_is_there_for_this_machine_alone() -> None:
    options = set(signature(cli.studio).parameters)
    assert options == {"model", "index", "port", "guarded_only", "device"}
    with pytest.raises(IndexMismatch, match="'nowhere' does not exist"):
        cli.studio(index="nowhere")
    project = tomllib.loads((TESTS.parent / "studio/pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["anechoic.commands"]["studio"].partition(":")
    cli.register(app := Typer())
    assert (module, getattr(cli, name)) == (cli.__name__, cli.register)
    assert [one.callback for one in app.registered_commands] == [cli.studio]
