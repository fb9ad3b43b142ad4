"""Whatever is missing, damaged or down: 503, and no sound."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.endpoint import make_service, with_client
from support.pipelines import CAPTIONS
from support.sounds import RATE, tune

from anechoic import audio
from anechoic.protection import Judge

ASKED = {"prompt": CAPTIONS[2], "seed": 1}
SOUND = audio.encode("a.wav", tune(9), RATE)


async def refused(client: Any) -> str:
    """Ask for sound: it is refused, and nothing of the machine is told."""
    made = await client.post("/v1/generate", json=ASKED)
    assert (made.status_code, list(made.json())) == (503, ["detail"])
    assert "/" not in made.json()["detail"]
    return str(made.json()["detail"])


async def unready(client: Any) -> str:
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    return str(answer.json()["reason"])


def test_nothing_is_served_before_the_model_is_there(folder: Path) -> None:
    def fails(_: Any) -> Any:
        raise OSError("no weights")

    async def run(client: Any) -> None:
        await refused(client)
        assert (await client.get("/v1/index")).status_code == 503
        assert (await client.get("/healthz")).status_code == 200
        assert await unready(client)

    with_client(make_service(folder, load=fails), run, ready=False)


@pytest.mark.parametrize("damage", [os.unlink, lambda file: file.write_bytes(b"{")])
def test_an_index_that_is_gone_or_damaged_closes_the_service(
    damage: Callable[[Path], Any], tiny: Any, folder: Path
) -> None:
    service = make_service(folder, tiny)

    async def run(client: Any) -> None:
        assert (await client.post("/v1/generate", json=ASKED)).status_code == 200
        manifest = folder / "manifest.json"
        whole = manifest.read_bytes()
        damage(manifest)
        await refused(client)
        assert "has changed since it was opened" in await unready(client)
        service.reload()
        await refused(client)
        assert "could not be loaded again" in await unready(client)
        manifest.write_bytes(whole)
        await refused(client)  # until the operator says so
        service.reload()
        assert (await client.post("/v1/generate", json=ASKED)).status_code == 200

    with_client(service, run)


class Down:
    """The first detector of a judge, which fails from now on."""

    calibration = None

    def __init__(self, verifier: Any):
        self.rule, self.index, self.embedder = verifier.rule, verifier.index, verifier.embedder

    def __call__(self, wav: Any, sample_rate: int) -> Any:
        raise RuntimeError("the detector is down")


def test_a_detector_that_is_down_lets_nothing_out(tiny: Any, folder: Path) -> None:
    def load(_: Any) -> Any:
        judge = Judge.load(folder)
        down: Any = Down(judge.verifier)
        return tiny, replace(judge, verifier=down)

    async def run(client: Any) -> None:
        await refused(client)
        checked = await client.post("/v1/check", content=SOUND)
        assert (checked.status_code, list(checked.json())) == (503, ["detail"])
        metrics = (await client.get("/metrics")).text
        assert 'anechoic_sounds_total{verdict="not judged"} 1.0' in metrics
        assert 'anechoic_sounds_total{verdict="released"} 0.0' in metrics

    with_client(make_service(folder, load=load), run)


def test_a_model_that_fails_gives_nothing(tiny: Any, folder: Path) -> None:
    def load(_: Any) -> Any:
        pipe = tiny.__class__(**tiny.components)
        pipe.encode_prompt = lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no memory"))
        return pipe, Judge.load(folder)

    with_client(make_service(folder, load=load), refused)


def test_what_cannot_be_logged_is_not_released(tiny: Any, folder: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")

    async def run(client: Any) -> None:
        assert "the audit log cannot be written" in await refused(client)

    with_client(make_service(folder, tiny, log=blocked / "log.jsonl"), run)


def test_every_answer_is_in_the_log_before_it_leaves(
    tiny: Any, folder: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log.jsonl"

    async def run(client: Any) -> list[str]:
        made = [
            await client.post("/v1/generate", json={**ASKED, "seed": seed}) for seed in range(5)
        ]
        return [one.headers["anechoic-request"] for one in made]

    service = make_service(folder, tiny, log=log, log_bytes=1500, log_files=9)
    requests = with_client(service, run)
    files = sorted(tmp_path.glob("log.jsonl*"))
    assert len(files) > 1
    assert all(file.stat().st_size < 4000 for file in files)
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert sorted(line["request"] for line in lines) == sorted(requests)
    assert {line["outcome"] for line in lines} == {"released"}
    assert CAPTIONS[2] not in "".join(file.read_text() for file in files)
