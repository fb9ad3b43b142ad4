"""`anechoic index`: add, remove, duplicates, info, optimise, as a person runs them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from support.commands import Run, exit_code, work_in_copy
from support.sounds import RATE, save_clips, tones

from anechoic import TrainingIndex, audio
from anechoic.engine.model import require_own_index
from anechoic.errors import IndexMismatch


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips, of which two are the same, and their index."""
    folder = tmp_path_factory.mktemp("made")
    save_clips(
        folder,
        [tones(min(i, 6)) for i in range(8)],
        "clips/metadata.csv",
        caption=[f"take {i}" for i in range(8)],
        artist=["ann"] * 2 + ["bob"] * 6,
    )
    assert exit_code("index", "build", folder / "clips", "-o", folder / "i") == 0
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return work_in_copy(made, tmp_path, monkeypatch)


@pytest.fixture
def run(command: Run) -> Run:
    return partial(command, "index")


def ids(folder: str = "i") -> list[str]:
    return [clip.id for clip in TrainingIndex.load(folder).clips]


def test_an_index_may_cover_more_models_than_its_own(here: Path, run: Run) -> None:
    sentence = "error: index 'i' names no model, so it covers every one already\n"
    assert run("cover", "i", "tuned") == (2, "", sentence)
    index = TrainingIndex.load("i")
    index.about = replace(index.about, model="own")
    index.save("i", overwrite=True)
    assert run("cover", "i", "tuned") == (0, "i: the training clips of 'own', 'tuned'\n", "")
    assert run("cover", "i", "tuned")[0] == 0
    found = TrainingIndex.load("i")
    assert (found.model, found.covers) == ("own", ("tuned",))
    for model in ("own", "tuned"):
        require_own_index(found, lambda model=model: model)
    with pytest.raises(IndexMismatch, match="say so with 'anechoic index cover INDEX other'"):
        require_own_index(found, lambda: "other")
    assert exit_code("index", "info", "i", "--check") == 0


def test_a_right_holders_clips_are_withdrawn(here: Path, run: Run) -> None:
    wanted = ("remove", "i", "--where", "artist=ann", "--id", "5.wav")
    code, out, _ = run(*wanted, "--dry-run")
    assert (code, out) == (0, "i: 3 clips would be withdrawn\n0.wav\n1.wav\n5.wav\n")
    assert len(ids()) == 8
    assert run(*wanted)[:2] == (0, "i: 3 clips withdrawn, 5 rows left\n")
    assert ids() == ["2.wav", "3.wav", "4.wav", "6.wav", "7.wav"]
    Path("ids.txt").write_text("2.wav\n\n3.wav\n")
    assert run("remove", "i", "--ids", "ids.txt")[0] == 0
    assert ids() == ["4.wav", "6.wav", "7.wav"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "say which clips"),
        (("--id", "nine.wav"), "has no clips 'nine.wav'; nothing was withdrawn"),
        (("--where", "artist=eve"), "has no such clips"),
        (("--where", "artist"), "NAME=VALUE was expected"),
    ],
)
def test_withdrawing_nothing_is_an_error(
    here: Path, run: Run, arguments: tuple[str, ...], complaint: str
) -> None:
    code, out, err = run("remove", "i", *arguments)
    assert (code, out, complaint in err) == (2, "", True)
    assert len(ids()) == 8


def test_clips_are_added_as_those_that_are_there(here: Path, run: Run) -> None:
    audio.write("more/new.wav", tones(9), RATE)
    Path("more/metadata.csv").write_text("file_name,text\nnew.wav,a new one\n")
    assert run("add", "i", "more")[:2] == (0, "i: 1 row added, 9 in all\n")
    assert ids()[-1] == "new.wav"
    code, out, _ = run("search", "i", "more/new.wav", "-k", "1", "--json")
    (match,) = json.loads(out)
    assert (code, match["clip"]["id"]) == (0, "new.wav")
    assert match["score"] > 0.999
    code, _, err = run("add", "i", "more")
    assert (code, "two clips have the id 'new.wav'" in err) == (2, True)


def test_duplicates_are_listed_with_their_captions(here: Path, run: Run) -> None:
    code, out, _ = run("duplicates", "i")
    assert (code, out.splitlines()[0]) == (0, "i: 1 cluster of duplicates, 2 clips in it")
    assert all(word in out for word in ("exact", "take 6; take 7", "6.wav, 7.wav"))
    told = json.loads(run("duplicates", "i", "--json")[1])
    assert [clip["id"] for clip in told["shown"][0]["clips"]] == ["6.wav", "7.wav"]
    assert told["shown"][0]["exact"] is True


def test_what_an_index_holds_is_told_and_checked(here: Path, run: Run) -> None:
    code, out, _ = run("info", "i", "--check", "--json")
    told = json.loads(out)
    assert (code, told["rows"], told["clips"], told["search"]) == (0, 8, 8, "exact, in memory")
    (shard,) = Path("i/shards").iterdir()
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    assert run("info", "i")[0] == 0  # sizes alone
    code, _, err = run("info", "i", "--check")
    assert (code, "is not the file that was written" in err) == (2, True)


def test_the_demos_index_is_known_by_name(run: Run) -> None:
    told = json.loads(run("info", "demo", "--json")[1])
    assert (told["rows"], told["embedder_name"]) == (1715, "magmel")


def test_embeddings_made_elsewhere_are_indexed_under_their_embedders_name(
    here: Path, run: Run
) -> None:
    vectors = torch.nn.functional.normalize(torch.randn(3, 16), dim=1).tolist()
    conditioning = {"seconds_start": 0, "seconds_total": 5}
    told = {
        str(i): {"embedding": v, "conditioning": {"prompt": f"take {i}", **conditioning}}
        for i, v in enumerate(vectors)
    }
    Path("amg.json").write_text(json.dumps(told))
    code, _, err = run("build", "amg.json", "-o", "amg")
    assert (code, "--embedder" in err) == (2, True)
    code, out, _ = run("build", "amg.json", "-o", "amg", "--embedder", "clap")
    assert (code, out) == (0, "amg: 3 rows of 16 by 'clap'\n")
    assert TrainingIndex.load("amg").captions == ["take 0", "take 1", "take 2"]
