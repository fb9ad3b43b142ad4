"""What the README shows works, pasted in order into a fresh copy of the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.pipelines import make_pipe

from anechoic import audio

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", README, re.M | re.S)
MODEL = "stabilityai/stable-audio-open-1.0"  # its weights are gated: a tiny one stands in for it
RATE = 16_000


def example(folder: Path) -> str:
    """The README's Python, on a tiny pipeline of Stable Audio Open's classes."""
    (block,) = (text for language, text in BLOCKS if language == "python")
    assert block.count(MODEL) == 1
    make_pipe().save_pretrained(folder / "tiny")
    return block.replace(MODEL, str(folder / "tiny"))


def test_the_readme_fits_two_screens() -> None:
    assert len(README.splitlines()) < 150


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anechoic import TrainingIndex, embedder

    monkeypatch.chdir(tmp_path)
    time = torch.arange(RATE) / RATE
    clips = {f"tone {i}": torch.sin(2 * torch.pi * 220 * i * time) for i in range(1, 5)}
    for name, wav in clips.items():
        audio.write(tmp_path / f"clips/{name}.wav", wav[None], RATE)
    rows = "".join(f"{name}.wav,{name}\n" for name in clips)
    (tmp_path / "captions.csv").write_text("file_name,caption\n" + rows)
    TrainingIndex.build(
        "clips", embedder("magmel:seconds=10"), captions="captions.csv"
    ).save("clips.index")  # fmt: skip
    exec(compile(example(tmp_path), "README.md", "exec"), {})


@pytest.mark.slow  # several minutes, most of them `make demo`
def test_the_readme_can_be_pasted_in_order_into_a_fresh_copy(tmp_path: Path) -> None:
    copy = tmp_path / "anechoic"
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    for name in filter(None, tracked):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    (copy / ".venv").mkdir()  # what `make` would set up: the environment of this test
    (copy / ".venv/bin").symlink_to(Path(sys.executable).parent)
    (copy / ".venv/ready").touch()
    sources = os.pathsep.join(str(copy / part) for part in ("src", "lab/src", "cluster/src"))
    environment = {**os.environ, "PYTHONPATH": sources, "HF_HUB_OFFLINE": "1"}
    script = ["set -e"]
    for language, text in BLOCKS:
        if language == "python":
            (copy / "example.py").write_text(example(tmp_path))
            script.append("python example.py")
        else:  # `make test` is what runs this test
            script += [line for line in text.splitlines() if not line.startswith("make test")]
    ran = subprocess.run(
        ["bash", "-c", "\n".join(script)], cwd=copy, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    assert (copy / "anechoic-demo.html").is_file()
    assert "a copy" in ran.stdout
