"""Replicas on a Ray cluster of this machine: answers as of one process, and some of them killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from anechoic_serve import Settings
from support.load import free_port
from support.model_folder import save

from anechoic import Verifier, audio
from anechoic.index import training

pytest.importorskip("anechoic_ray", reason="Ray is not installed: pip install 'anechoic[ray]'")
pytest.importorskip(
    "ray.serve",
    reason="Ray Serve is not installed: pip install 'anechoic-serve[ray]'",
    exc_type=ImportError,
)
pytestmark = pytest.mark.slow  # a cluster may start late, and needs a minute


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and its index in several shards."""
    folder = tmp_path_factory.mktemp("replicas")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "VECTORS", 2)
        return save(folder, copy=0.9999)


@contextmanager
def served(folder: Path, count: int) -> Iterator[httpx2.Client]:
    """A client of so many replicas, which search an index in two actors."""
    from anechoic_serve.replicas import replicas

    settings = Settings(
        model=str(folder / "model"),
        index=str(folder / "i"),
        steps=6,
        port=free_port(),
        replicas=count,
        most_replicas=count,
        cpus=0.5,
        index_actors=2,
        index_cpus=0.25,
        log=folder / "log.jsonl",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with replicas(settings) as address, httpx2.Client(base_url=address, timeout=120) as client:
            yield client


def made(client: httpx2.Client, seed: int) -> Any:
    return client.post("/v1/generate", json={"prompt": "a dog barks", "seed": seed})


def test_what_is_found_in_actors_is_what_one_process_finds_also_when_one_was_killed(
    folder: Path,
) -> None:
    verify = Verifier.load(folder / "i")
    with served(folder, 1) as client:
        for kill in (False, True):
            if kill:
                first, second = processes("ray::Part")
                os.kill(first, signal.SIGKILL)
            for seed in range(4):
                answer = made(client, seed)
                assert answer.status_code == 200
                found = verify(*audio.read_bytes(answer.content, "the answer"))
                similarity = float(answer.headers["anechoic-similarity"])
                assert similarity == pytest.approx(found.score, abs=1e-4)
        assert second in processes("ray::Part")
        assert counted(client) == 8


@pytest.mark.slow
def test_links_hold_at_each_replica_and_a_killed_one_is_replaced(folder: Path) -> None:
    with served(folder, 2) as client:
        answers = [made(client, seed) for seed in range(8)]
        assert [one.status_code for one in answers] == [200] * 8
        for one in answers * 3:  # whichever replica is asked
            assert client.get(one.headers["anechoic-certificate"]).is_success
        logged = {one["request"] for log in logs(folder) for one in lines(log)}
        assert {one.headers["anechoic-request"] for one in answers} <= logged
        until = time.monotonic() + 180
        while counted(client) != 8:  # each tells what it counted every few seconds
            assert time.monotonic() < until
            time.sleep(0.5)
        first, second = processes("ServeReplica:anechoic")
        before = len(logs(folder))
        os.kill(first, signal.SIGKILL)
        while (
            len(set(processes("ServeReplica:anechoic")) - {first}) < 2
            or len(logs(folder)) == before
        ):
            assert time.monotonic() < until
            made(client, 0)
            time.sleep(0.5)
        assert [made(client, seed).status_code for seed in range(8)] == [200] * 8
        assert second in processes("ServeReplica:anechoic")
        assert client.get(answers[0].headers["anechoic-certificate"]).is_success
        assert counted(client) >= 8


def logs(folder: Path) -> list[Path]:
    """The logs of all replicas."""
    return list(folder.glob("log-*.jsonl"))


def lines(log: Path) -> list[Any]:
    """The content of a log."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def counted(client: httpx2.Client) -> int:
    """The sounds that the metrics of all replicas speak of."""
    lines = client.get("/metrics").text.splitlines()
    return sum(int(float(line.split()[-1])) for line in lines
               if line.startswith("anechoic_sounds_total"))  # fmt: skip


def processes(name: str) -> list[int]:
    """Those of Ray by what they are called."""
    children = psutil.Process().children(recursive=True)
    alive = [one for one in children if one.status() != psutil.STATUS_ZOMBIE]
    return [one.pid for one in alive if name in " ".join(one.cmdline())]
