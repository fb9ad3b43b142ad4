"""The queue: what waits is bounded, batched, given up and finished."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from support.endpoint import CALL, make_service, with_client
from support.pipelines import CAPTIONS

from anechoic.protection import Judge

ASKED = {"prompt": CAPTIONS[2], "seed": 1, "policy": "refuse"}


class Gate:
    """A tiny pipeline that stops at its first step until it may go on."""

    def __init__(self, pipe: Any, folder: Path):
        self.pipe, self.folder = pipe, folder
        self.entered, self.opened = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def load(self, _: Any) -> Any:
        pipe = self.pipe.__class__(**self.pipe.components)
        encode = pipe.encode_prompt

        def waits(prompt: Any, *more: Any, **named: Any) -> Any:
            self.batches.append(len(prompt))
            self.entered.set()
            assert self.opened.wait(60)
            return encode(prompt, *more, **named)

        pipe.encode_prompt = waits
        return pipe, Judge.load(self.folder)

    async def holds(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, 60)


@pytest.fixture
def gate(tiny: Any, folder: Path) -> Gate:
    return Gate(tiny, folder)


async def until(true: Any) -> None:
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it never came to be")


def test_who_comes_too_many_is_told_when_to_come_again(gate: Gate) -> None:
    service = make_service(gate.folder, load=gate.load, queue=2)

    async def run(client: Any) -> None:
        first = asyncio.create_task(client.post("/v1/generate", json=ASKED))
        await gate.holds()
        waiting = [asyncio.create_task(client.post("/v1/generate", json=ASKED)) for _ in range(2)]
        await until(lambda: service.waiting() == 2)
        busy = await client.post("/v1/generate", json=ASKED)
        assert busy.status_code == 429
        assert int(busy.headers["retry-after"]) >= 1
        assert "2 sounds wait" in busy.json()["detail"]
        gate.opened.set()
        for one in (first, *waiting):
            assert (await one).status_code == 200

    with_client(service, run)


def test_who_would_be_served_after_the_deadline_is_refused_at_once(gate: Gate) -> None:
    service = make_service(gate.folder, load=gate.load)

    async def run(client: Any) -> None:
        first = asyncio.create_task(client.post("/v1/generate", json=ASKED))
        await gate.holds()
        await asyncio.sleep(0.2)  # which it takes
        gate.opened.set()
        assert (await first).status_code == 200
        gate.opened.clear()
        gate.entered.clear()
        held = [asyncio.create_task(client.post("/v1/generate", json=ASKED))]
        await gate.holds()
        hasty = {**ASKED, "deadline_s": 0.1}
        # nothing waits: what is under way may end at any moment
        held.append(asyncio.create_task(client.post("/v1/generate", json=hasty)))
        await until(lambda: service.waiting() == 1)
        busy = await client.post("/v1/generate", json=hasty)
        assert busy.status_code == 429
        assert int(busy.headers["retry-after"]) >= 1
        assert "after its deadline of 0.1 s" in busy.json()["detail"]
        patient = asyncio.create_task(client.post("/v1/generate", json=ASKED))
        await until(lambda: held[1].done() and service.waiting() == 1)
        gate.opened.set()
        codes = [(await one).status_code for one in (*held, patient)]
        assert codes == [200, 504, 200]

    with_client(service, run)


def test_those_who_wait_are_made_at_once_each_as_alone(gate: Gate) -> None:
    service = make_service(gate.folder, load=gate.load, batch=3)

    async def run(client: Any) -> None:
        gate.opened.set()
        alone = [
            (await client.post("/v1/generate", json={**ASKED, "seed": seed})).headers
            for seed in range(4)
        ]
        gate.opened.clear()
        gate.entered.clear()
        first = asyncio.create_task(client.post("/v1/generate", json=ASKED))
        await gate.holds()
        gate.batches.clear()
        other = {**ASKED, "policy": "retry"}  # goes its own way
        asked = [{**ASKED, "seed": seed} for seed in range(4)]
        waiting = []
        for place, one in enumerate([*asked[:2], other, *asked[2:]], 1):
            waiting.append(asyncio.create_task(client.post("/v1/generate", json=one)))
            await until(lambda place=place: service.waiting() == place)
        gate.opened.set()
        made = [await one for one in (first, *waiting)]
        assert [one.status_code for one in made] == [200] * 6
        assert gate.batches == [3, 1, 1]
        together = [made[place].headers for place in (1, 2, 4, 5)]
        for one, same in zip(together, alone, strict=True):
            assert one["anechoic-seed"] == same["anechoic-seed"]
            score, expected = (float(x["anechoic-similarity"]) for x in (one, same))
            assert score == pytest.approx(expected, abs=2e-3)

    with_client(service, run)


@pytest.mark.parametrize("how", ["deadline", "client", "events"])
def test_whoever_gives_up_frees_the_pipeline(how: str, gate: Gate) -> None:
    log = gate.folder.parent / "log.jsonl"
    service = make_service(gate.folder, load=gate.load, log=log)
    path = "/v1/generate/events" if how == "events" else "/v1/generate"

    async def run(client: Any) -> None:
        asked = ASKED if how == "client" else {**ASKED, "deadline_s": 0.3}
        ask = asyncio.create_task(client.post(path, json=asked))
        await gate.holds()
        if how == "client":
            ask.cancel()
            await asyncio.wait([ask])
        elif how == "deadline":
            assert (await ask).status_code == 504
        else:
            assert '"status": 504' in (await ask).text.replace('":5', '": 5')
        steps = count_steps(gate)
        gate.opened.set()
        assert (await client.post("/v1/generate", json=ASKED)).status_code == 200
        assert len(steps) == CALL["num_inference_steps"] + 1  # the other ended at its first
        assert (
            'anechoic_sounds_total{verdict="released"} 1.0' in (await client.get("/metrics")).text
        )

    with_client(service, run)
    outcomes = sorted(json.loads(line)["outcome"] for line in log.read_text().splitlines())
    assert outcomes == [f"abandoned: {how}", "released"]


def count_steps(gate: Gate) -> list[int]:
    """Grows by one at each call of the network, whoever calls it."""
    steps: list[int] = []
    gate.pipe.transformer.register_forward_pre_hook(lambda *_: steps.append(1))
    return steps


def test_what_waits_is_finished_when_the_service_ends(gate: Gate) -> None:
    service = make_service(gate.folder, load=gate.load)

    async def run(client: Any) -> None:
        asks = [asyncio.create_task(client.post("/v1/generate", json=ASKED))]
        await gate.holds()  # or all three would be made at once
        asks += [asyncio.create_task(client.post("/v1/generate", json=ASKED)) for _ in range(2)]
        await until(lambda: service.waiting() == 2)
        ended = asyncio.create_task(asyncio.to_thread(service.stop))
        await until(lambda: service.unready())
        assert (await client.post("/v1/generate", json=ASKED)).status_code == 503
        gate.opened.set()
        assert [(await ask).status_code for ask in asks] == [200] * 3
        await ended

    with_client(service, run)


def test_a_body_that_is_too_large_or_too_slow_is_refused(tiny: Any, folder: Path) -> None:
    async def slowly() -> Any:
        yield b'{"prompt": '
        await asyncio.sleep(60)
        yield b'"x"}'

    async def run(client: Any) -> None:
        large = await client.post("/v1/check", content=b"x" * 2000)
        assert (large.status_code, list(large.json())) == (413, ["detail"])
        json = {"content-type": "application/json"}
        slow = await client.post("/v1/generate", content=slowly(), headers=json)
        assert slow.status_code == 408
        assert "did not come within 2 s" in slow.json()["detail"]

    with_client(make_service(folder, tiny, body_bytes=1000, body_s=2.0), run)
