"""`anechoic serve` under load, with faults: what it gives against the bare pipeline, and how late.

    python benchmarks/service.py                  # half an hour of load on the demo model
    python benchmarks/service.py --minutes 1 --malformed 200
    python benchmarks/service.py --out docs/evidence/service

A server of its own on loopback is asked by 1, 8 and 32 clients, each of which asks again as soon as
it is answered, and comes back when a 429 says so. Every sound is compared with its certificate, and
looked up in the audit log. Then the server is killed while it generates and started again, a client
sends half a body, the disk under the log is full, the index is damaged and opened again, and
malformed requests are sent. Throughput is beside that of the plain pipeline in a batch of one and
in the server's batch, measured before, without a server. Exits with 1 if anything unverified left,
an answer is missing in the log, a fault is answered otherwise, a request got a 500, or memory grew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2

from anechoic.detectors import calibration
from anechoic.environment import machine
from anechoic.models import index_folder

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.load import (
    Load,
    beside_a_slow_client,
    killed,
    loaded,
    logged,
    over_a_damaged_index,
    serving,
    status,
    under_a_full_disk,
)

CLIENTS = (1, 8, 32)
BATCH = 4  # the server's own by default
GROWTH = 0.1  # of memory, from the end of the first load to that of the last
HEAD = """# The service under load

`make load` writes this page: ten minutes of load by each of 1, 8 and 32 clients on loopback, the
demo model, the default settings, one machine for the server and its clients. Each client asks again
as soon as it is answered, and waits where a 429 says so. A status of 504 is a request that passed
its deadline of two minutes.
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
    parser.add_argument("--minutes", type=float, default=10.0, help="of load for each of 1, 8, 32")
    parser.add_argument("--malformed", type=int, default=10_000, help="requests")
    parser.add_argument("--out", type=Path, help="write .md and .json besides")
    asked = parser.parse_args()
    before = os.getloadavg()[0]
    each = 60 * asked.minutes
    command = [sys.executable, "-c", BARE, str(max(each / 6, 5)), str(BATCH)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    bare = [float(line) for line in printed.split()]
    with TemporaryDirectory() as folder:
        log, index = Path(folder) / "log.jsonl", Path(folder) / "index"
        shutil.copytree(index_folder("demo"), index)
        # its sound is not beside it, which the other detectors compare
        stored = calibration.read(index).values()
        near = [one for one in stored if "nearest" in one.detector]
        calibration.write(index, near, overwrite=True)
        with serving(log) as (address, process):
            status(address)  # whatever is done once
            loads = [asyncio.run(loaded(address, clients, each)) for clients in CLIENTS]
            got = asyncio.run(killed(address, process))
        written = log.read_bytes()
        # what is served all the same is brief
        with serving(log, STEPS="3", BODY_S="2", INDEX=str(index)) as (address, process):
            answers = {
                "a slow client": (beside_a_slow_client(address), [200, 408]),
                "a full disk": (under_a_full_disk(address, log), [503, 200]),
                "a damaged index": (over_a_damaged_index(address, process, index), [503, 200]),
            }
            statuses = malformed(address, asked.malformed)
            again = asyncio.run(loaded(address, 1, 5))
        requests, torn = logged(log)
        kept = log.read_bytes().startswith(written)
    answered = [one for load in (*loads, again) for one in load.requests]
    faults = {
        "sounds that left without a certificate that fits": sum(load.unverified for load in loads),
        "answers that the log lacks": len(set(answered) - requests) + (not kept),
        "requests answered with 500": sum(
            count for load in (*loads, Load(0, statuses=statuses)) for status, count
            in load.statuses.items() if status == 500
        ),
        "lines of the log that are torn": max(0, torn - 1),  # one, where it was killed
        "faults that were answered otherwise": sum(
            found != expected for found, expected in answers.values()
        ),
    }  # fmt: skip
    grew = loads[-1].memory / loads[0].memory - 1
    about = {
        "Killed while it generated": f"its client got {got}; started again, the server gave "
        f"{len(again.requests)} sounds in five seconds",
        "While a client sent half a body": "another one got {}, and that one {}".format(
            *answers["a slow client"][0]
        ),
        "While the disk under the log was full": "{}; with room again {}".format(
            *answers["a full disk"][0]
        ),
        "While the index that was opened again was damaged": "{}; whole again {}".format(
            *answers["a damaged index"][0]
        ),
        f"{sum(statuses.values()):,} malformed requests": ", ".join(
            f"{status}: {count}" for status, count in sorted(statuses.items())
        ),
        "Memory grew": f"{100 * grew:.1f} % from the first load to the last",
        **{name[0].upper() + name[1:]: str(count) for name, count in faults.items()},
        "Machine": ", ".join(f"{name} {value}" for name, value in machine("1").items()),
        "Cores, and load before": f"{os.cpu_count()}, {before:.1f}",
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
