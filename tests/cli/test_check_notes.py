"""A melody on another instrument, from the calibration to the verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.commands import Run
from support.melodies import CLARINET, ORGAN, RATE, play, tune

from anechoic import audio

NOTES = ("--detector", "notes")


def test_a_melody_on_another_instrument_is_a_copy_and_a_hum_is_not_judged(
    tmp_path: Path, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in range(5):
        audio.write(f"clips/{seed}.wav", play(tune(seed), ORGAN), RATE)
    names = [f"{seed}.wav" for seed in range(5)]
    Path("clips/metadata.csv").write_text(
        "\n".join(["file_name,caption", *(f"{name},an organ" for name in names)])
    )
    for seed in range(100, 109):
        audio.write(f"others/{seed}.wav", play(tune(seed), CLARINET), RATE)
    audio.write("others/hum.wav", play([(0.0, 3.0, 50)], ORGAN), RATE)
    windows = ("--embedder", "magmel:seconds=1", "--window", "1", "--hop", "0.5")
    code, _, err = command("index", "build", "clips", "-o", "i", *windows)
    assert code == 0, err
    code, out, err = command("calibrate", "others", "--index", "i", "--fpr", "0.1", *NOTES)
    assert code == 0, err
    assert "not used: hum.wav" in out
    audio.write("up.wav", play(tune(3), CLARINET, 3, 1.1), RATE)
    code, out, err = command("check", "up.wav", "--index", "i", *NOTES, "--json")
    assert code == 1, err
    (found,) = json.loads(out)["files"]
    assert (found["verdict"], found["clip"]["id"], found["semitones"]) == ("copy", "3.wav", 3.0)
    assert found["tempo"] == pytest.approx(1.1, rel=0.03)
    code, out, _ = command("check", "others/hum.wav", "--index", "i", *NOTES)
    assert code == 3
    assert "too little in it to be compared" in " ".join(out.split())
