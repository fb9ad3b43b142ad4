"""What goes wrong around the service: nothing unverified leaves, and it goes on."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from anechoic_serve import create_app
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.endpoint import client_of, make_service, save_memorized, with_client
from support.malformed import Asked, requests
from support.pipelines import CAPTIONS

from anechoic.protection import Judge

ASKED = {"prompt": CAPTIONS[2], "seed": 1, "policy": "refuse"}
FULL = Path("/dev/full")  # every write to it fails as on a full disk


def test_a_thread_that_dies_is_no_end_of_the_service(tiny: Any, folder: Path) -> None:
    dies = [SystemExit("a library ends the process"), MemoryError(), KeyboardInterrupt()]

    def load(_: Any) -> Any:
        pipe = tiny.__class__(**tiny.components)
        encode = pipe.encode_prompt

        def fails(*more: Any, **named: Any) -> Any:
            if dies:
                raise dies.pop()
            return encode(*more, **named)

        pipe.encode_prompt = fails
        return pipe, Judge.load(folder)

    async def run(client: Any) -> list[int]:
        asked = [await client.post("/v1/generate", json=ASKED) for _ in range(4)]
        return [one.status_code for one in asked]

    assert with_client(make_service(folder, load=load), run) == [503, 503, 503, 200]


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
def test_a_full_disk_under_the_log_closes_the_service_until_there_is_room(
    tiny: Any, folder: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log.jsonl"
    log.symlink_to(FULL)

    async def run(client: Any) -> None:
        made = await client.post("/v1/generate", json=ASKED)
        assert (made.status_code, list(made.json())) == (503, ["detail"])
        log.unlink()
        made = await client.post("/v1/generate", json=ASKED)
        assert made.status_code == 200
        assert made.headers["anechoic-request"] in log.read_text()

    with_client(make_service(folder, tiny, log=log), run)


def test_slow_clients_keep_nobody_waiting(tiny: Any, folder: Path) -> None:
    head = b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"

    async def run() -> None:
        config = uvicorn.Config(
            create_app(service=make_service(folder, tiny, body_s=1.0)), port=0, log_level="error"
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        slow = [await asyncio.open_connection("localhost", port) for _ in range(20)]
        for place, (_, sends) in enumerate(slow):  # half in the head, half in the body
            sends.write(head if place % 2 else head + b'Content-Length: 40\r\n\r\n{"prompt"')
        body = b'{"prompt": "a dog barks", "seed": 1}'
        reads, sends = await asyncio.open_connection("localhost", port)
        for _ in range(200):  # until it is ready
            sends.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            answer = await asyncio.wait_for(reads.readuntil(b"\r\n"), 60)
            rest = await reads.readuntil(b"\r\n\r\n")
            length = next(one for one in rest.lower().split(b"\r\n") if b"content-length" in one)
            await reads.readexactly(int(length.split(b":")[1]))
            if b" 503 " not in answer:
                break
            await asyncio.sleep(0.05)
        assert answer == b"HTTP/1.1 200 OK\r\n"
        late = await asyncio.wait_for(slow[0][0].readline(), 60)
        assert late == b"HTTP/1.1 408 Request Timeout\r\n"
        for _, sends in slow:
            sends.close()
        server.should_exit = True
        await serving

    asyncio.run(run())


@pytest.fixture(scope="module")
def asks(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Ask a service that runs all the while."""
    place = save_memorized(tmp_path_factory.mktemp("malformed") / "index", tiny)
    service = make_service(place, tiny, deadline_s=60, log=place.parent / "log.jsonl")
    with asyncio.Runner() as runner, contextlib.ExitStack() as end:
        context = client_of(service)
        client = runner.run(context.__aenter__())
        end.callback(lambda: runner.run(context.__aexit__(None, None, None)))
        description = runner.run(client.get("/openapi.json")).json()
        log = place.parent / "log.jsonl"
        yield description, lambda asked: runner.run(answered(client, asked)), log


async def answered(client: Any, asked: Asked) -> Any:
    return await client.request(asked.method, asked.path, headers=asked.headers, content=asked.body)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_malformed_requests_get_an_answer_and_nothing_unverified(asks: Any, data: Any) -> None:
    description, ask, log = asks
    asked = data.draw(requests(description, ASKED))
    answer = ask(asked)
    assert answer.status_code < 500, answer.text
    kind = answer.headers.get("content-type", "")
    if answer.status_code >= 400:
        assert asked.method == "HEAD" or list(answer.json()) == ["detail"]
    elif kind.startswith("audio/"):
        place = answer.headers["anechoic-certificate"]
        certified = ask(Asked("GET", place, {}, b"")).json()
        assert certified["file"]["sha256"] == hashlib.sha256(answer.content).hexdigest()
        assert answer.headers["anechoic-request"] in log.read_text()
