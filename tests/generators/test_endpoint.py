"""An HTTP endpoint as a generator: what is sent, what is taken back, and what is refused."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from support.sounds import RATE, tune

from anechoic import audio
from anechoic.errors import AnechoicError, BadAudio, BadSetting
from anechoic.generators import CommandLine, Endpoint, external
from anechoic.generators.endpoint import TOKEN

SOUND = audio.encode("sound.wav", tune(3), RATE)
HEARD = audio.read_bytes(SOUND, "sound.wav")[0]
JSON = "application/json"


class Service(BaseHTTPRequestHandler):
    """Answers with what a test sets, and keeps what it was asked."""

    asked: dict[str, object]
    headers_sent: dict[str, str]
    status, kind, content, slow_s = 200, "audio/wav", SOUND, 0.0
    location = ""

    def do_POST(self) -> None:
        kind = type(self)
        kind.asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind.headers_sent = dict(self.headers)
        self.send_response(self.status)
        self.send_header("Content-Type", self.kind)
        if self.location:
            self.send_header("Location", self.location)
        self.end_headers()
        try:
            for start in range(0, len(self.content), 10_000):
                self.wfile.write(self.content[start : start + 10_000])
                time.sleep(self.slow_s)
        except OSError:  # who asked has gone
            pass

    def log_message(self, format: str, *values: object) -> None:
        pass


Serve = Callable[..., tuple[str, type[Service]]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a service on this machine, with attributes of `Service`: its address and its class."""
    monkeypatch.delenv(TOKEN, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nothing here may go through a proxy
    servers = []

    def start(**attributes: object) -> tuple[str, type[Service]]:
        kind = type("Answers", (Service,), attributes)
        server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/tts", kind

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_prompt_and_a_seed_are_sent_and_a_sound_file_comes_back(serve: Serve) -> None:
    url, service = serve()
    wav, rate = external(url)("a 'solo' violin é", 7)
    assert (rate, torch.equal(wav, HEARD)) == (RATE, True)
    assert service.asked == {"prompt": "a 'solo' violin é", "seed": 7}
    assert service.headers_sent["Content-Type"] == JSON
    assert "Authorization" not in service.headers_sent
    external(url, seconds=2.5)("a", 0)
    assert service.asked == {"prompt": "a", "seed": 0, "seconds": 2.5}


def test_a_sound_may_come_as_base64_in_json(serve: Serve) -> None:
    content = json.dumps({"audio": base64.b64encode(SOUND).decode()}).encode()
    url, _ = serve(kind=f"{JSON}; charset=utf-8", content=content)
    assert torch.equal(external(url)("a", 0)[0], HEARD)


def test_the_token_comes_from_the_environment_and_is_shown_nowhere(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, service = serve()
    monkeypatch.setenv(TOKEN, "s3cret")
    made = external(url)
    made("a", 0)
    assert service.headers_sent["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in repr((made, made.identity, made.about))
    monkeypatch.setenv(TOKEN, "s3cret\r\nHost: elsewhere")
    with pytest.raises(BadSetting, match="holds a character that cannot be sent") as raised:
        made("a", 0)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("answer", "error", "sentence"),
    [
        ({"status": 503, "kind": "text/plain", "content": b"no GPU\n is free" + b"." * 9999},
         AnechoicError, r"answered 503 Service Unavailable: no GPU is free\.{186}$"),
        ({"status": 307, "location": "https://elsewhere.example/"}, AnechoicError,
         "redirect is not followed; give the address itself: 'https://elsewhere.example/'$"),
        ({"status": 204, "content": b""}, AnechoicError, "answered 204 No Content$"),
        ({"content": b"<html>no sound"}, BadAudio, "cannot be read as sound"),
        ({"content": b""}, BadAudio, "is empty"),
        ({"kind": JSON, "content": b"{}"}, AnechoicError, "JSON without a sound file in base64"),
        ({"kind": JSON, "content": b'{"audio": "*"}'}, AnechoicError, "JSON without a sound file"),
        ({"kind": JSON, "content": b"[1"}, AnechoicError, "is not JSON"),
    ],
)  # fmt: skip
def test_each_refusal_is_one_sentence(
    serve: Serve, answer: dict[str, object], error: type[Exception], sentence: str
) -> None:
    url, _ = serve(**answer)
    with pytest.raises(error, match=sentence) as raised:
        external(url)("a", 0)
    assert "\n" not in str(raised.value)


def test_an_answer_over_the_limit_is_not_read_to_its_end(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANECHOIC_MAX_FILE_BYTES", "20000")
    url, _ = serve(content=SOUND * 40, slow_s=0.05)
    start = time.perf_counter()
    with pytest.raises(AnechoicError, match=r"bytes or more, over the limit of 20000; .*raise"):
        external(url)("a", 0)
    assert time.perf_counter() - start < len(SOUND * 40) / 10_000 * 0.05


def test_an_answer_that_comes_in_drops_ends_at_the_time(serve: Serve) -> None:
    url, _ = serve(content=SOUND * 40, slow_s=0.1)
    with pytest.raises(AnechoicError, match=r"took longer than 0.3 s; allow it more time"):
        external(url, timeout_s=0.3)("a", 0)


def test_a_service_that_is_not_there_is_said() -> None:
    with pytest.raises(AnechoicError, match=r"^the generator http://127\.0\.0\.1:9/ does not ans"):
        external("http://127.0.0.1:9/")("a", 0)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://tts.example.org/a", "expected https://, or http:// on this machine"),
        ("http://127.0.0.1.example.org/a", "expected https://, or http:// on this machine"),
        ("ftp://localhost/a", "expected https://, or http:// on this machine"),
        ("https://me:s3cret@tts.example.org/a", f"holds a name or password; .* into {TOKEN}"),
        ("https://tts.example.org:port/a", "is not an address"),
        ("https://tts.example.org/\udce5", "is not an address"),  # a byte that is not UTF-8
    ],
)
def test_an_address_that_is_not_safe_is_refused_at_once(url: str, sentence: str) -> None:
    with pytest.raises(BadSetting, match=sentence) as raised:
        external(url)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "[::1]:8000"])
def test_this_machine_needs_no_encryption(host: str) -> None:
    assert external(f"http://{host}/a").url == f"http://{host}/a"


def test_a_command_may_hold_an_address(tmp_path: Path) -> None:
    assert isinstance(external("python3 {prompt} {output} --from https://a.example"), CommandLine)
    assert isinstance(external("https://a.example"), Endpoint)
