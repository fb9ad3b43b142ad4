"""`anechoic serve` under load, with faults: what it gives against the bare pipeline, and how late.

    python benchmarks/service.py                       # ten minutes of load on the demo model
    python benchmarks/service.py --minutes 1 --malformed 200
    python benchmarks/service.py --out docs/evidence/service

A server of its own on loopback is asked by 1, 8 and 32 clients, each of which asks again as soon as
it is answered, and comes back when a 429 says so. Every sound is compared with its certificate, and
looked up in the audit log. Then the server is killed while it generates and started again, and
malformed requests are sent. Throughput is beside that of the plain pipeline in a batch of one and
in the server's batch, measured before, without a server. Exits with 1 if anything unverified left,
an answer is missing in the log, a request got a 500, or memory grew.
"""

from __future__ import annotations

import argparse
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from tempfile import TemporaryDirectory
from typing import Any

import httpx2

from anechoic.environment import machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # `support`: malformed requests

CLIENTS = (1, 8, 32)
PROMPTS = ("low cello note", "ambient choir", "a dog barks", "rain on a roof", "bright piano chord")
BATCH = 4  # the server's own by default
GROWTH = 0.1  # of memory, from the end of the first load to that of the last
HEAD = """# The service under load

`make load` writes this page: ten minutes of load by 1, 8 and 32 clients on loopback, the demo
model, the default settings, one machine for the server and its clients. Each client asks again as
soon as it is answered, and waits where a 429 says so. A status of 504 is a request that passed its
deadline of two minutes.
"""
BARE = """
import sys, time
from anechoic.diffusers.generate import generate
from anechoic.diffusers.loading import load_pipeline
from anechoic.diffusers.pipelines import call_arguments
from anechoic.models import find
known, seconds = find("demo"), float(sys.argv[1])
pipe = load_pipeline(known.pipeline)
pipe.set_progress_bar_config(disable=True)
call = call_arguments(pipe, known.scale, known.steps)
for batch in (1, int(sys.argv[2])):
    prompts = ["low cello note"] * batch
    generate(pipe, prompts, list(range(batch)), call)
    start, made = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        generate(pipe, prompts, list(range(made, made + batch)), call)
        made += batch
    print(made / (time.perf_counter() - start))
"""


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
    """A server of the demo model that is ready, and its address."""
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


def logged(log: Path) -> tuple[set[str], int]:
    """The requests of a log, and how many of its lines are torn."""
    found, torn = set(), 0
    for line in log.read_text().splitlines():
        try:
            found.add(json.loads(line)["request"])
        except ValueError:
            torn += 1
    return found, torn


# ----------------------------------------------------------------------------------------- faults


async def killed(address: str, process: subprocess.Popen[bytes]) -> str:
    """Kill the server while it generates: what its client gets."""
    async with httpx2.AsyncClient(base_url=address, timeout=60) as client:
        asked = asyncio.create_task(client.post("/v1/generate", json={"prompt": PROMPTS[0]}))
        await asyncio.sleep(0.5)
        process.send_signal(signal.SIGKILL)
        try:
            return str((await asked).status_code)
        except httpx2.HTTPError as error:
            return type(error).__name__


def malformed(address: str, count: int) -> Counter[int]:
    """The statuses of so many malformed requests."""
    from hypothesis import HealthCheck, Phase, given, settings
    from support.malformed import requests

    statuses: Counter[int] = Counter()
    with httpx2.Client(base_url=address, timeout=120) as client:
        description = client.get("/openapi.json").json()
        good = {"prompt": "x", "seed": 1, "seconds": 3000}  # a length that no model makes

        @settings(
            max_examples=count, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(requests(description, good))
        def send(asked: Any) -> None:
            answer = client.request(
                asked.method, asked.path, headers=asked.headers, content=asked.body
            )
            statuses[answer.status_code] += 1

        send()
    return statuses


# ----------------------------------------------------------------------------------------- report


def table(bare: Sequence[float], loads: Sequence[Load], about: dict[str, Any]) -> str:
    rows = [
        "| clients | sounds | sounds a second | of the plain pipeline in batches of "
        f"{BATCH} | p50 s | p95 s | p99 s | statuses | memory MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for load in loads:
        statuses = ", ".join(
            f"{status}: {count}" for status, count in sorted(load.statuses.items())
        )
        percentiles = " | ".join(f"{load.percentile(share):.2f}" for share in (0.5, 0.95, 0.99))
        rows.append(
            f"| {load.clients} | {len(load.latencies)} | {load.rate:.3f} "
            f"| {load.rate / bare[1]:.2f} | {percentiles} | {statuses} | {load.memory:.0f} |"
        )
    plain = f"{bare[0]:.3f} sounds a second one by one, {bare[1]:.3f} in batches of {BATCH}"
    facts = {"The plain pipeline": plain, **about}
    return "\n".join([*rows, "", *(f"- {name}: {value}." for name, value in facts.items())])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="of load, all clients together")
    parser.add_argument("--malformed", type=int, default=10_000, help="requests")
    parser.add_argument("--out", type=Path, help="write .md and .json besides")
    asked = parser.parse_args()
    each = 60 * asked.minutes / len(CLIENTS)
    command = [sys.executable, "-c", BARE, str(max(each / 6, 5)), str(BATCH)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    bare = [float(line) for line in printed.split()]
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        with serving(log) as (address, process):
            httpx2.post(f"{address}/v1/generate", json={"prompt": PROMPTS[0]}, timeout=300)
            loads = [asyncio.run(loaded(address, clients, each)) for clients in CLIENTS]
            got = asyncio.run(killed(address, process))
        before = log.read_bytes()
        with serving(log, STEPS="3") as (address, _):  # what is served all the same is brief
            statuses = malformed(address, asked.malformed)
            again = asyncio.run(loaded(address, 1, 5))
        requests, torn = logged(log)
        kept = log.read_bytes().startswith(before)
    answered = [one for load in (*loads, again) for one in load.requests]
    faults = {
        "sounds that left without a certificate that fits": sum(load.unverified for load in loads),
        "answers that the log lacks": len(set(answered) - requests) + (not kept),
        "requests answered with 500": sum(
            count for load in (*loads, Load(0, statuses=statuses)) for status, count
            in load.statuses.items() if status == 500
        ),
        "lines of the log that are torn": max(0, torn - 1),  # one, where it was killed
    }  # fmt: skip
    grew = loads[-1].memory / loads[0].memory - 1
    about = {
        "Killed while it generated": f"its client got {got}; started again, the server gave "
        f"{len(again.requests)} sounds in five seconds",
        f"{sum(statuses.values()):,} malformed requests": ", ".join(
            f"{status}: {count}" for status, count in sorted(statuses.items())
        ),
        "Memory grew": f"{100 * grew:.1f} % from the first load to the last",
        **{name[0].upper() + name[1:]: str(count) for name, count in faults.items()},
        "Machine": ", ".join(f"{name} {value}" for name, value in machine("1").items()),
        "Cores, and load before": f"{os.cpu_count()}, {os.getloadavg()[0]:.1f}",
    }
    page = table(bare, loads, about)
    print(page)
    if asked.out is not None:
        asked.out.with_suffix(".md").write_text(f"{HEAD}\n{page}\n")
        shown = [{**vars(load), "statuses": dict(load.statuses)} for load in loads]
        content = {"bare": bare, "loads": shown, "about": about}
        asked.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    return int(any(faults.values()) or grew > GROWTH)


if __name__ == "__main__":
    sys.exit(main())
