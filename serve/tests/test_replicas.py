"""Replicas on a Ray cluster of this machine: the same answers, and one of them killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from anechoic_serve import Settings
from support.model_folder import save

pytest.importorskip("anechoic_ray", reason="Ray is not installed: pip install 'anechoic[ray]'")
pytest.importorskip(
    "ray.serve",
    reason="Ray Serve is not installed: pip install 'anechoic-serve[ray]'",
    exc_type=ImportError,
)
pytestmark = pytest.mark.slow


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx2.Client]:
    """A client of two replicas."""
    from anechoic_serve.replicas import replicas

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    save(tmp_path, copy=0.9999)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    settings = Settings(
        model=str(tmp_path / "model"),
        index=str(tmp_path / "i"),
        steps=6,
        port=port,
        replicas=2,
        most_replicas=2,
        cpus=0.5,
        log=tmp_path / "log.jsonl",
    )
    with replicas(settings) as address, httpx2.Client(base_url=address, timeout=120) as client:
        yield client


def made(client: httpx2.Client, seed: int) -> Any:
    return client.post("/v1/generate", json={"prompt": "a dog barks", "seed": seed})


def test_links_hold_at_each_replica_and_a_killed_one_is_replaced(
    served: httpx2.Client, tmp_path: Path
) -> None:
    answers = [made(served, seed) for seed in range(8)]
    assert [one.status_code for one in answers] == [200] * 8
    for one in answers * 3:  # whichever replica is asked
        assert served.get(one.headers["anechoic-certificate"]).is_success
    logs = list(tmp_path.glob("log-*.jsonl"))
    assert len(logs) == 2
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    assert {one["request"] for one in lines} == {a.headers["anechoic-request"] for a in answers}
    first, second = replicas_here()
    os.kill(first, signal.SIGKILL)
    until = time.monotonic() + 180
    while len(set(replicas_here()) - {first}) < 2 or len(list(tmp_path.glob("log-*.jsonl"))) < 3:
        assert time.monotonic() < until
        made(served, 0)
        time.sleep(0.5)
    assert [made(served, seed).status_code for seed in range(8)] == [200] * 8
    assert second in replicas_here()
    assert served.get(answers[0].headers["anechoic-certificate"]).is_success


def replicas_here() -> list[int]:
    """The processes of the replicas."""
    children = psutil.Process().children(recursive=True)
    alive = [one for one in children if one.status() != psutil.STATUS_ZOMBIE]
    return [one.pid for one in alive if "ServeReplica:anechoic" in " ".join(one.cmdline())]
