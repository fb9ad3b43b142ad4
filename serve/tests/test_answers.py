"""What is answered: sound that was verified with its certificate, or a sentence and no sound."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from support.endpoint import CALL, MEMORIZED, make_service, save_memorized, with_client
from support.pipelines import CAPTIONS
from support.sounds import RATE

from anechoic import audio
from anechoic.diffusers.generate import generate
from anechoic.protection.policy import seed_of_attempt

PLAIN = {"prompt": CAPTIONS[2], "seed": 1}


def test_a_sound_leaves_with_its_verdict_and_a_certificate_of_these_bytes(
    tiny: Any, folder: Path
) -> None:
    async def run(client: Any) -> None:
        made = await client.post("/v1/generate", json=PLAIN)
        assert made.status_code == 200
        assert made.headers["content-type"] == "audio/wav"
        told = {name: made.headers[f"anechoic-{name}"] for name in ("verdict", "attempts", "seed")}
        assert told == {"verdict": "released", "attempts": "1", "seed": "1"}
        assert -1 <= float(made.headers["anechoic-similarity"]) < 0.9999
        certified = (await client.get(made.headers["anechoic-certificate"])).json()
        assert certified["file"]["sha256"] == hashlib.sha256(made.content).hexdigest()
        assert certified["verdict"] == "no copy"
        sound, rate = soundfile.read(io.BytesIO(made.content), dtype="float32")
        expected = generate(tiny, PLAIN["prompt"], 1, CALL).samples[0]
        assert (rate, sound.shape) == (RATE, (64, 2))
        assert np.allclose(sound.T, expected / expected.abs().max().clamp_min(1), atol=1e-3)

    with_client(make_service(folder, tiny), run)


def test_a_memorized_prompt_is_tried_again_and_then_refused(tiny: Any, folder: Path) -> None:
    async def run(client: Any) -> None:
        asked = {"prompt": MEMORIZED, "seed": 0}
        made = await client.post("/v1/generate", json=asked)
        assert made.headers["anechoic-verdict"] == "regenerated"
        assert made.headers["anechoic-attempts"] == "3"
        refused = await client.post("/v1/generate", json={**asked, "policy": "retry"})
        assert refused.status_code == 409
        assert "2 of 2 attempts were copies" in refused.json()["detail"]
        both = {"n": 2, "links": True, "policy": "refuse", "format": "flac"}
        (bad, good) = (await client.post("/v1/generate", json={**asked, **both})).json()["sounds"]
        assert (bad["verdict"], bad["url"], bad["certificate"]) == ("refused", None, None)
        assert bad["attempts"][0]["verdict"] == "copy"
        assert "clip" not in bad["attempts"][0]["detectors"][0]
        assert good["verdict"] == "released"
        linked = await client.get(good["url"])
        assert linked.headers["content-type"] == "audio/flac"
        assert good["certificate"]["file"]["sha256"] == hashlib.sha256(linked.content).hexdigest()

    with_client(make_service(folder, tiny), run)


def test_each_step_is_told_and_then_the_links(tiny: Any, folder: Path) -> None:
    async def run(client: Any) -> None:
        found: list[tuple[str, Any]] = []
        asked = {"prompt": MEMORIZED, "seed": 0, "policy": "guard"}
        async with client.stream("POST", "/v1/generate/events", json=asked) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            name = ""
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    found.append((name, json.loads(line[6:])))
        steps = [(told["attempt"], told["step"]) for name, told in found if name == "step"]
        assert steps == [(attempt, step) for attempt in (1, 2) for step in range(1, 7)]
        assert [name for name, _ in found if name != "step"] == ["queued", "sound", "done"]
        (sound,) = found[-1][1]["sounds"]
        assert sound["verdict"] == "regenerated"
        assert (await client.get(sound["url"])).content[:4] == b"RIFF"
        refused = {"prompt": MEMORIZED, "seed": 0, "policy": "refuse"}
        told = (await client.post("/v1/generate/events", json=refused)).text
        assert "event: problem" in told
        assert "409" in told
        assert "event: done" not in told

    with_client(make_service(folder, tiny), run)


def test_a_file_is_checked_whatever_it_is_called(tiny: Any, folder: Path) -> None:
    async def run(client: Any) -> None:
        copy = generate(tiny, MEMORIZED, seed_of_attempt(0, 1), CALL).samples[0]
        found = (await client.post("/v1/check", content=audio.encode("a.flac", copy, RATE))).json()
        assert (found["verdict"], found["certificate"]) == ("copy", None)
        other = torch.randn(1, RATE, generator=torch.Generator().manual_seed(9))
        content = audio.encode("a.wav", 0.1 * other, RATE)
        found = (await client.post("/v1/check", content=content)).json()
        assert found["verdict"] == "no copy"
        assert found["certificate"]["file"]["sha256"] == hashlib.sha256(content).hexdigest()

    with_client(make_service(folder, tiny), run)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"prompt": " "}, "prompt: is empty"),
        ({"prompt": "x" * 1001}, "prompt: string should have at most 1000 characters"),
        ({"prompt": "x", "policy": "report"}, "policy: a policy ends in 'refuse' here"),
        ({"prompt": "x", "policy": "retry:30"}, "policy: at most 10 attempts are made here"),
        ({"prompt": "x", "policy": "hope"}, "policy: expected steps among retry, guard"),
        ({"prompt": "x", "seconds": 500}, "this model makes up to 0.004 s of sound"),
        ({"prompt": "x", "n": 2}, "n: several sounds come as links"),
        ({"prompt": "x", "n": 9, "links": True}, "n: at most 4 sounds are made at once"),
        ({"prompt": "x", "format": "../../etc/passwd"}, "format: input should be 'wav', 'flac'"),
        ({"prompt": "x", "files": ["/etc/passwd"]}, "files: extra inputs are not permitted"),
        ({"prompt": "x", "seed": -1}, "seed: input should be greater than or equal to 0"),
    ],
    ids=lambda value: next(reversed(value), "") if isinstance(value, dict) else "",
)
def test_what_cannot_be_made_is_refused_in_a_sentence(asked: Any, says: str, settled: Any) -> None:
    answer = settled(lambda client: client.post("/v1/generate", json=asked))
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(says)


@pytest.fixture(scope="module")
def settled(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Ask a service that is not changed."""
    place = save_memorized(tmp_path_factory.mktemp("settled") / "index", tiny)
    return lambda run: with_client(make_service(place, tiny), run)


def test_no_path_reaches_the_files(settled: Any) -> None:
    async def run(client: Any) -> list[int]:
        names = ("..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "sound.wav", "a/../b")
        return [(await client.get(f"/v1/sounds/{name}")).status_code for name in names]

    assert set(settled(run)) == {404}


def test_what_is_not_sound_is_not_checked(settled: Any) -> None:
    async def run(client: Any) -> list[tuple[int, str]]:
        silence = audio.encode("a.wav", torch.zeros(1, RATE), RATE)
        answers = [
            await client.post("/v1/check", content=content)
            for content in (b"", b"/etc/passwd", silence)
        ]
        return [(one.status_code, one.json()["detail"]) for one in answers]

    found = settled(run)
    assert [status for status, _ in found] == [422] * 3
    assert all("the sound" in detail for _, detail in found)


def test_the_index_and_the_counters_are_shown(settled: Any) -> None:
    async def run(client: Any) -> tuple[Any, str, Any]:
        await client.post("/v1/generate", json={"prompt": MEMORIZED, "seed": 0})
        index, metrics = await client.get("/v1/index"), await client.get("/metrics")
        return index.json(), metrics.text, (await client.get("/readyz")).json()

    index, metrics, ready = settled(run)
    assert (index["clips"], index["embedder"]) == (4, "magmel")
    assert index["detectors"][0]["limit"] == 0.9999
    assert index["promise"].startswith("No output above the limit leaves")
    assert ready == {"ready": True, "reason": ""}
    for line in (
        'anechoic_sounds_total{verdict="regenerated"} 1.0',
        'anechoic_sounds_total{verdict="refused"} 0.0',
        'anechoic_attempts_total{attempt="retry",verdict="copy"} 1.0',
        'anechoic_similarity_bucket{attempt="first",le="+Inf"} 1.0',
        'anechoic_request_seconds_count{route="/v1/generate",status="200"} 1.0',
        "anechoic_queue_sounds 0.0",
        "anechoic_ready 1.0",
    ):
        assert line in metrics.splitlines()


def test_a_page_of_another_site_cannot_ask(settled: Any) -> None:
    async def run(client: Any) -> int:
        answer = await client.get("/v1/index", headers={"Host": "attacker.example"})
        return int(answer.status_code)

    assert settled(run) == 400
