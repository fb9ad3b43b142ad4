"""The logs: each attempt a line, the copies in a log of their own, and what they hide."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from support.audits import training_set
from support.protection import PROMPT, Memorizes

from anechoic import embedder, protect
from anechoic.protection import Judge
from anechoic.protection.log import append_line

PROMPTS = [PROMPT, "something else"]


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.of(training_set(0.95), embedder("magmel"))


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def log(judge: Judge, folder: Path, **more: Any) -> tuple[list[dict[str, Any]], list[Any]]:
    run, hits = folder / "logs/run.jsonl", folder / "logs/hits.jsonl"
    protect(Memorizes(), judge, PROMPTS, on_copy="retry,refuse", log=run, hits=hits, **more)
    return lines(run), lines(hits)


def test_every_attempt_is_a_line_and_every_copy_a_hit(judge: Judge, tmp_path: Path) -> None:
    run, hits = log(judge, tmp_path)
    assert [(one["sound"], one["verdict"], one["outcome"]) for one in run] == [
        (1, "copy", "next attempt"),
        (1, "copy", "refused"),
        (2, "no copy", "released"),
    ]
    assert hits == run[:2]
    first = run[0]
    assert first["prompt"] == {"kept": "clear", "value": PROMPTS[0]}
    assert (first["attempt"], first["seed"]) == ("first", 0)
    assert first["index"] == judge.index.content
    (detector,) = first["detectors"]
    assert detector["detector"] == "nearest stretch (magmel, whole clips)"
    assert (detector["limit"], detector["clip"]["caption"]) == (0.95, PROMPTS[0])
    assert detector["score"] > 0.95
    assert len({one["run"] for one in run}) == 1


def test_a_second_run_is_appended(judge: Judge, tmp_path: Path) -> None:
    log(judge, tmp_path)
    run, hits = log(judge, tmp_path)
    assert (len(run), len(hits), len({one["run"] for one in run})) == (6, 4, 2)


@pytest.mark.parametrize("how", ["hashed", "left out"])
def test_prompts_can_be_hashed_or_left_out_and_so_are_captions(
    judge: Judge, tmp_path: Path, how: str
) -> None:
    run, _ = log(judge, tmp_path, log_prompts=how)
    text = (tmp_path / "logs/run.jsonl").read_text() + (tmp_path / "logs/hits.jsonl").read_text()
    assert not any(prompt in text for prompt in PROMPTS)
    assert [one["detectors"][0]["clip"]["id"] for one in run[:2]] == ["tune-2"] * 2
    hashes = [hashlib.sha256(PROMPTS[i].encode()).hexdigest() for i in (0, 0, 1)]
    values = hashes if how == "hashed" else [None] * 3
    assert [one["prompt"] for one in run] == [{"kept": how, "value": value} for value in values]


def test_an_error_that_quotes_the_prompt_does_not_bring_it_into_the_log(
    judge: Judge, tmp_path: Path
) -> None:
    def quotes(prompt: str, seed: int) -> None:
        raise ValueError(f"cannot make {prompt!r}")

    file = tmp_path / "run.jsonl"
    protect(quotes, judge, PROMPTS[0], on_copy="refuse", log=file, log_prompts="left out")
    assert PROMPTS[0] not in file.read_text()
    assert lines(file)[0]["reason"].endswith("ValueError: cannot make '(prompt)'")


def test_a_log_that_cannot_be_written_lets_nothing_out(judge: Judge, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        protect(
            Memorizes(0),
            judge,
            PROMPTS,
            files=[tmp_path / "1.wav", tmp_path / "2.wav"],
            log=tmp_path / "file/run.jsonl",
        )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_line_that_a_killed_process_left_unfinished_stays_alone(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    file.write_bytes(b'{"whole": 1}\n{"tor')
    append_line(file, '{"next": 2}')
    append_line(file, '{"next": 3}')
    assert file.read_text() == '{"whole": 1}\n{"tor\n{"next": 2}\n{"next": 3}\n'
