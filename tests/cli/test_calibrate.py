"""`anechoic calibrate --detector`: what it keeps beside the index, reads again, and mends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.audits import folder_of
from support.commands import Run, lines
from support.sounds import save_clips, tune

from anechoic import TrainingIndex, embedder
from anechoic.detectors import Landmarks

KEPT = Path("i/detectors/landmarks")
MENDS = "'anechoic calibrate FOLDER --index i --detector landmarks --overwrite'"


@pytest.fixture
def calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Run) -> Run:
    """Calibrate index "i" of the working directory; it has been calibrated once."""
    monkeypatch.chdir(tmp_path)
    save_clips(tmp_path, map(tune, range(5)), caption=["a tune"] * 5)
    TrainingIndex.build("clips", embedder("magmel"), captions="captions.csv").save("i")
    folder_of(tmp_path / "held", **{f"h{i}": tune(400 + i) for i in range(19)})

    def calibrate(*arguments: str) -> tuple[int, str, str]:
        return command("calibrate", "held", "--index", "i", "--fpr", "0.05", "--detector",
                       "landmarks", "--overwrite", *arguments)  # fmt: skip

    assert calibrate()[0] == 0
    return calibrate


def written() -> int:
    return KEPT.joinpath("about.json").stat().st_ino  # replaced as a whole folder


def test_what_it_has_read_unchanged_it_does_not_write_again(calibrated: Run) -> None:
    before = written()
    code, out, err = calibrated()
    assert (code, written()) == (0, before)
    assert "anew" not in out + err


def damage(monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(KEPT.joinpath("fitted.safetensors").read_bytes())
    content[-3] ^= 1
    KEPT.joinpath("fitted.safetensors").write_bytes(content)


def edit(monkeypatch: pytest.MonkeyPatch) -> None:
    about = KEPT / "about.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"left_out": [0]}))


def take_away(monkeypatch: pytest.MonkeyPatch) -> None:
    KEPT.joinpath("fitted.safetensors").unlink()


def renew_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Landmarks, "name", "landmarks (a recipe of tomorrow)")


@pytest.mark.parametrize("spoil", [damage, edit, take_away, renew_the_recipe])
def test_what_cannot_be_used_others_refuse_and_it_fits_anew(
    calibrated: Run, command: Run, monkeypatch: pytest.MonkeyPatch, spoil
) -> None:
    spoil(monkeypatch)
    check = ("check", "held/h0.wav", "--index", "i", "--detector", "landmarks")
    code, _, err = command(*check)
    assert (code, err.splitlines()[-1].endswith(f"; mend it with {MENDS}")) == (2, True)
    code, out, err = calibrated("--json")
    assert [line for line in err.splitlines() if "anew" in line] == [
        "detector 'landmarks' is fitted anew, because the one that the index keeps is damaged or "
        "of another recipe"
    ]
    assert json.loads(out)["calibrations"][0]["detector"] == Landmarks.name
    code, out, err = calibrated()
    assert (code, "anew" in out + err) == (0, False)
    assert command(*check)[0] == 0


def test_once_the_index_has_changed_it_fits_anew_and_keeps_that(
    calibrated: Run, command: Run
) -> None:
    before = json.loads(KEPT.joinpath("about.json").read_text())
    assert command("index", "remove", "i", "--id", "0.wav")[0] == 0
    code, out, err = calibrated()
    assert (code, "anew" in out + err) == (0, False)
    after = json.loads(KEPT.joinpath("about.json").read_text())
    assert after["content"] not in ("", before["content"])
    assert lines(command("check", "clips/1.wav", "--index", "i", "--detector", "landmarks")[1])[
        1
    ].startswith("clips/1.wav COPY")
