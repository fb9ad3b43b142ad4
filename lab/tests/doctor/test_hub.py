"""A model on the hub: what is fetched of it, and the sentence for each refusal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

import pytest
from support.hub import serving
from support.model_folder import save

from anechoic import cli


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("shared"))


class Hub(BaseHTTPRequestHandler):
    """A hub with the model me/mine, and models that one may not have."""

    COMMIT: ClassVar = "1" * 40
    REFUSED: ClassVar = {
        "gated": (403, "GatedRepo"),
        "private": (401, "RepoNotFound"),
        "plain": (404, "EntryNotFound"),
    }
    model: ClassVar[Path]
    asked: ClassVar[list[str]]

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        if self.path.endswith(".safetensors"):
            self.asked.append(self.path)
        self.wfile.write(self.answer())

    def answer(self) -> bytes:
        first, *rest = self.path.split("?")[0].strip("/").split("/")
        if first != "me" and rest[1:2] != ["me"]:
            status, code = self.REFUSED.get(first, (404, ""))
            return self.send(status, b"", {"X-Error-Code": code})
        files = [path for path in self.model.rglob("*") if path.is_file()]
        sizes = {str(path.relative_to(self.model)): path.stat().st_size for path in files}
        if "/tree/" in self.path:
            rows = [{"type": "file", "oid": "0" * 40, "path": name, "size": size}
                    for name, size in sizes.items()]  # fmt: skip
            return self.send(200, json.dumps(rows).encode(), {"Content-Type": "application/json"})
        if first == "api":
            named = [{"rfilename": name, "size": size} for name, size in sizes.items()]
            about = {"id": "me/mine", "sha": self.COMMIT, "siblings": named}
            return self.send(200, json.dumps(about).encode(), {"Content-Type": "application/json"})
        content = (self.model / "/".join(rest[3:])).read_bytes()
        tag = f'"{hashlib.sha1(content).hexdigest()}"'
        return self.send(200, content, {"X-Repo-Commit": self.COMMIT, "ETag": tag})

    def send(self, status: int, content: bytes, headers: dict[str, str]) -> bytes:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        return content

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a hub, which the client asks; what it fetches it keeps in its own folder."""
    Hub.model, Hub.asked = shared / "model", []
    with serving(Hub) as address:
        client = "huggingface_hub.constants"
        url = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(f"{client}.ENDPOINT", address)
        monkeypatch.setattr(f"{client}.HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr(f"{client}.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(f"{client}.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield address


def doctor(capsys: pytest.CaptureFixture[str], model: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as done:
        cli.main(["doctor", "--model", model])
    assert isinstance(done.value.code, int)
    return done.value.code, capsys.readouterr().out


def test_of_a_model_on_the_hub_only_small_files_are_fetched(
    hub: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out = doctor(capsys, "me/mine")
    (problem,) = [line for line in out.splitlines() if line.startswith("weights: ")]
    assert (code, Hub.asked) == (2, [])
    assert problem.startswith(
        "weights: the weights of projection_model, text_encoder, transformer, vae are not in '"
    )
    assert problem.endswith(
        "; fetch them (143 KiB) with 'hf download me/mine --include \"*/*.safetensors\"'"
    )
    assert out.endswith("not ready: 1 to fix\n")  # all the rest is known already
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    _, out = doctor(capsys, "me/mine")
    assert "and HF_HUB_OFFLINE is set; unset it, and fetch them with 'hf download me/mine" in out


@pytest.mark.parametrize("command", ["doctor", "generate"])
def test_what_the_hub_refuses_is_a_sentence_of_each_command(
    hub: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    sentences = {
        "gated": f"model 'gated/one' is gated; accept its terms at {hub}/gated/one and log in with "
        "'hf auth login', or set HF_TOKEN",
        "private": "there is no folder 'private/one' here, and no model 'private/one' on the hub "
        "that you may see; check the name, or log in with 'hf auth login' if it is private",
        "plain": "model 'plain/one' on the hub has no model_index.json, so it is not a diffusers "
        "pipeline; use another model",
    }
    more = ["a prompt", "--guard", "cfg", "-o", str(tmp_path / "o.wav")]
    for name, sentence in sentences.items():
        with pytest.raises(SystemExit) as done:
            cli.main([command, "--model", f"{name}/one", *(more if command == "generate" else [])])
        out, err = capsys.readouterr()
        assert done.value.code == 2
        told = f"model: {sentence}" if command == "doctor" else f"error: {sentence}"
        assert told in (out if command == "doctor" else err).splitlines()
