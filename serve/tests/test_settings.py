"""Settings, keys and links: what an operator may say, who may ask, and who may fetch."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from anechoic_serve.cli import register
from anechoic_serve.keys import new_key, owner
from anechoic_serve.settings import Key, load
from anechoic_serve.shelf import Shelf
from support.endpoint import make_service, with_client
from support.pipelines import CAPTIONS
from typer import Typer
from typer.testing import CliRunner

from anechoic.errors import BadSetting

ASKED = {"prompt": CAPTIONS[2], "seed": 1}


def test_an_option_comes_before_the_environment_and_that_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "serve.toml"
    file.write_text('model = "a"\nqueue = 7\nbatch = 3\n')
    monkeypatch.setenv("ANECHOIC_SERVE_QUEUE", "8")
    monkeypatch.setenv("ANECHOIC_SERVE_BATCH", "5")
    found = load(file, batch=6, index=None)
    assert (found.model, found.index_name, found.queue, found.batch) == ("a", "a", 8, 6)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("queu = 7", "settings: queu: extra inputs are not permitted"),
        ("queue = 0", "settings: queue: input should be greater than or equal to 1, got 0"),
        ('policy = "report"', "settings: policy: a policy ends in 'refuse' here"),
        ('host = "0.0.0.0"', "settings: host 0.0.0.0 is open to other machines, and needs keys"),
        ('log_prompts = "no"', "settings: log_prompts: input should be 'clear', 'hashed' or"),
        ("queue = ", "is not TOML"),
        ('[[keys]]\nname = "a"\nsha256 = "secret"', "settings: keys.0.sha256: string should match"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(text)
    with pytest.raises(BadSetting) as refused:
        load(file)
    assert says in str(refused.value)
    with pytest.raises(BadSetting, match="there is no file"):
        load(tmp_path / "other.toml")


def test_a_new_key_is_shown_once_and_only_its_hash_is_set(tmp_path: Path) -> None:
    app = Typer()
    register(app)
    shown = CliRunner().invoke(app, ["--new-key", "studio"]).stdout
    secret = shown.splitlines()[0].rpartition(" ")[2]
    told = shown[shown.index("[[keys]]") :]
    assert secret not in told
    (key,) = [Key(**one) for one in tomllib.loads(told)["keys"]]
    assert owner([new_key("other")[1], key], secret) == "studio"
    assert owner([key], secret[:-1]) is None


def test_who_has_no_key_is_refused_before_anything_is_read(tiny: Any, folder: Path) -> None:
    (mine, first), (theirs, second) = new_key("mine"), new_key("theirs")

    def bearer(key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    async def run(client: Any) -> None:
        for headers in ({}, bearer("x"), bearer(first.sha256), {"Authorization": f"Basic {mine}"}):
            for answer in (
                await client.post("/v1/generate", json=ASKED, headers=headers),
                await client.post("/v1/generate/events", json=ASKED, headers=headers),
                await client.post("/v1/check", content=b"x", headers=headers),
                await client.get("/v1/index", headers=headers),
                await client.get("/v1/sounds/x", headers=headers),
            ):
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
        made = await client.post("/v1/generate", json=ASKED, headers=bearer(mine))
        place = made.headers["anechoic-certificate"]
        assert (await client.get(place, headers=bearer(mine))).status_code == 200
        assert (await client.get(place, headers=bearer(theirs))).status_code == 404
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.get("/v1/index", headers={**bearer(mine), "Host": "a"})).is_success

    keys = (first, second)
    log = folder.parent / "log.jsonl"
    with_client(make_service(folder, tiny, keys=keys, host="0.0.0.0", log=log), run)
    assert '"key": "mine"' in log.read_text()


def test_the_oldest_sounds_leave_the_shelf_first() -> None:
    shelf = Shelf(most_bytes=25, seconds=60)
    names = [shelf.put(bytes(10), "audio/wav", {}, "a") for _ in range(3)]
    assert [shelf.get(name, "a") is not None for name in names] == [False, True, True]
    assert Shelf(100, seconds=-1).put(b"x", "audio/wav", {}, "a")
    late = Shelf(100, seconds=-1)
    assert late.get(late.put(b"x", "audio/wav", {}, "a"), "a") is None
