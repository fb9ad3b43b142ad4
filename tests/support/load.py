"""A server of its own on this machine, clients that load it, and what goes wrong meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import create_connection, socket
from urllib.parse import urlsplit

import httpx2

PROMPTS = ("low cello note", "ambient choir", "a dog barks", "rain on a roof", "bright piano chord")
ASKED = {"prompt": PROMPTS[2], "seed": 1}
SLOW = (
    b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b'Content-Length: 40\r\n\r\n{"prompt"'
)


@dataclass
class Load:
    """What so many clients got."""

    clients: int
    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)  # of sounds that were answered
    requests: list[str] = field(default_factory=list)  # ids of answered ones
    unverified: int = 0
    memory: float = 0.0  # MiB of the server afterwards

    @property
    def rate(self) -> float:
        """Sounds a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """Seconds within which a share of the sounds came."""
        ordered = sorted(self.latencies)
        return ordered[min(round(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


# ------------------------------------------------------------------------------------- the server


def free_port() -> int:
    with socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def serving(log: Path, **settings: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server that is ready, by default of the demo model, and its address."""
    port = free_port()
    command = [sys.executable, "-m", "anechoic", "serve", "--port", str(port), "--log", str(log)]
    environment = os.environ | {f"ANECHOIC_SERVE_{name}": value for name, value in settings.items()}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(address, process)
            yield address, process
        finally:
            process.terminate()
            process.wait(180)


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1200):
        if process.poll() is not None:
            sys.exit(f"the server ended with {process.returncode}")
        try:
            if httpx2.get(f"{address}/readyz", timeout=60).is_success:
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.25)
    sys.exit("the server was not ready within five minutes")


def memory_of(address: str) -> float:
    text = httpx2.get(f"{address}/metrics", timeout=60).text
    lines = (line.split() for line in text.splitlines())
    return (
        next(float(line[1]) for line in lines if line[0] == "process_resident_memory_bytes") / 2**20
    )


def logged(log: Path) -> tuple[set[str], int]:
    """The requests of a log, and how many of its lines are torn."""
    found, torn = set(), 0
    for line in log.read_text().splitlines():
        try:
            found.add(json.loads(line)["request"])
        except ValueError:
            torn += 1
    return found, torn


# --------------------------------------------------------------------------------------- the load


async def ask(client: httpx2.AsyncClient, load: Load, until: float, draw: random.Random) -> None:
    """One client: it asks, and asks again."""
    while time.monotonic() < until:
        asked = {"prompt": draw.choice(PROMPTS), "seed": draw.randrange(2**32)}
        start = time.monotonic()
        made = await client.post("/v1/generate", json=asked)
        load.statuses[made.status_code] += 1
        if made.status_code == 429:
            await asyncio.sleep(
                min(float(made.headers["retry-after"]), until - time.monotonic(), 10)
            )
        if made.status_code == 200:
            load.latencies.append(time.monotonic() - start)
            load.requests.append(made.headers["anechoic-request"])
            certified = (await client.get(made.headers["anechoic-certificate"])).json()
            whole = hashlib.sha256(made.content).hexdigest()
            if certified["file"]["sha256"] != whole or certified["verdict"] != "no copy":
                load.unverified += 1


async def loaded(address: str, clients: int, seconds: float) -> Load:
    """What so many clients get in so much time."""
    load, start = Load(clients), time.monotonic()
    limits = httpx2.Limits(max_connections=clients)
    async with httpx2.AsyncClient(base_url=address, timeout=300, limits=limits) as client:
        draws = [random.Random(f"{clients}/{number}") for number in range(clients)]
        await asyncio.gather(*(ask(client, load, start + seconds, draw) for draw in draws))
    load.seconds = time.monotonic() - start
    load.memory = memory_of(address)
    return load


# ----------------------------------------------------------------------------------------- faults


async def killed(address: str, process: subprocess.Popen[bytes], after_s: float = 0.5) -> str:
    """Kill the server while four clients ask and ask again: what one gets that was waiting."""
    async with httpx2.AsyncClient(base_url=address, timeout=60) as client:

        async def until_it_breaks() -> str:
            while True:
                try:
                    await client.post("/v1/generate", json=ASKED)
                except httpx2.HTTPError as error:
                    return type(error).__name__

        asking = [asyncio.create_task(until_it_breaks()) for _ in range(4)]
        await asyncio.sleep(after_s)
        process.send_signal(signal.SIGKILL)
        ends = await asyncio.gather(*asking)
    return next((end for end in ends if end != "ConnectError"), "nobody waited")


def status(address: str) -> int:
    """What a client gets that asks for a sound."""
    return httpx2.post(f"{address}/v1/generate", json=ASKED, timeout=300).status_code


def beside_a_slow_client(address: str) -> list[int]:
    """What a client gets while another one sends half a body, and what that one gets."""
    place = urlsplit(address)
    with create_connection((place.hostname, place.port), timeout=300) as slow:
        slow.sendall(SLOW)
        got = status(address)
        return [got, int(slow.recv(1024).split()[1])]


def under_a_full_disk(address: str, log: Path) -> list[int]:
    """What clients get while the log cannot be written, and once there is room."""
    aside = log.with_suffix(".aside")
    log.rename(aside)
    log.symlink_to("/dev/full")  # every write to it fails as on a full disk
    full = status(address)
    log.unlink()
    aside.rename(log)
    return [full, status(address)]


def over_a_damaged_index(address: str, process: subprocess.Popen[bytes], index: Path) -> list[int]:
    """What clients get while the index that was opened again is damaged, and once it is whole."""
    file = max(
        (one for one in index.rglob("*") if one.is_file()), key=lambda one: one.stat().st_size
    )
    whole = file.read_bytes()
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + bytes(255 - one for one in whole[middle:]))
    process.send_signal(signal.SIGHUP)
    time.sleep(1)  # until it was tried
    damaged = status(address)
    file.write_bytes(whole)
    process.send_signal(signal.SIGHUP)
    wait_for(address, process)
    return [damaged, status(address)]
