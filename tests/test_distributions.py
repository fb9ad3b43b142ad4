"""The wheels hold all of their files and nothing of each other, and the core works alone."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tomllib
from email.parser import HeaderParser
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from sysconfig import get_paths
from zipfile import ZipFile

import pytest
from support.sounds import RATE, tune
from support.wheels import ROOT, install

import anechoic
from anechoic import audio

MEGABYTE = 1_000_000
OURS = ("anechoic", "__editable__")


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all that is installed here but our own packages."""
    folder = tmp_path_factory.mktemp("libraries")
    for place in {get_paths()["purelib"], get_paths()["platlib"]}:
        for path in Path(place).iterdir():
            if not path.name.startswith(OURS) and not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
    return folder


def run(script: str, *path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a script on a path of modules in which nothing else of ours is found."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "COLUMNS": "200"}
    command = [sys.executable, "-S", "-c", script]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def files_of(wheel: Path) -> set[str]:
    with ZipFile(wheel) as content:
        return {name for name in content.namelist() if ".dist-info/" not in name}


def sources_of(project: Path) -> set[str]:
    root = project / "src"
    known = {path for path in root.rglob("*") if path.is_file()}
    named = {path.relative_to(root).as_posix() for path in known if path.suffix != ".pyc"}
    return {name for name in named if ".egg-info/" not in name}


def test_each_wheel_holds_every_file_of_its_own_sources(core_wheel: Path, lab_wheel: Path) -> None:
    assert files_of(core_wheel) == sources_of(ROOT)
    assert files_of(lab_wheel) == sources_of(ROOT / "lab")


def test_the_wheel_of_the_core_is_small(core_wheel: Path) -> None:
    assert core_wheel.stat().st_size < MEGABYTE


def test_licences_ship_with_what_they_are_of(core_wheel: Path, lab_wheel: Path) -> None:
    for wheel, expected in (
        (core_wheel, {"LICENSE", "NOTICE"}),
        (lab_wheel, {"LICENSE", "ATTRIBUTION.md"}),
    ):
        with ZipFile(wheel) as content:
            names = [name for name in content.namelist() if ".dist-info/licenses/" in name]
        assert {name.rpartition("/")[2] for name in names} == expected
    assert (ROOT / "lab/LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_every_place_says_the_same_version(core_wheel: Path, lab_wheel: Path) -> None:
    said = runpy.run_path(str(ROOT / "scripts/release_check.py"))["versions"]()
    assert set(said.values()) == {anechoic.__version__}
    assert {wheel.name.split("-")[1] for wheel in (core_wheel, lab_wheel)} == set(said.values())


def test_all_distributions_say_who_made_them_for_what_and_which_python() -> None:
    found = [
        tomllib.loads(path.read_text("utf-8"))["project"] for path in ROOT.glob("*/pyproject.toml")
    ]
    core = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = {one["name"] for one in found}
    assert named >= {"anechoic-lab", "anechoic-ray", "anechoic-serve", "comfyui-anechoic"}
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    pythons = {name for name in core["classifiers"] if "Python ::" in name}
    assert len(pythons) > 1
    for one in (core, *found):
        (author,) = one["authors"]
        assert citation.count(f"- name: {author['name']}\n") == 2  # of the software, and the paper
        assert one["requires-python"] == core["requires-python"]
        assert one["urls"] == core["urls"]
        assert pythons <= set(one["classifiers"])
        assert one["keywords"]
        assert one["description"]


def test_every_library_that_a_wheel_asks_for_is_installed_here(
    core_wheel: Path, lab_wheel: Path
) -> None:
    for wheel in (core_wheel, lab_wheel):
        with ZipFile(wheel) as content:
            (about,) = (name for name in content.namelist() if name.endswith("/METADATA"))
            headers = HeaderParser().parsestr(content.read(about).decode())
        asked = [one for one in headers.get_all("Requires-Dist", []) if "extra ==" not in one]
        assert asked
        for one in asked:
            name = one.split(">")[0].split("[")[0].strip()
            try:
                distribution(name)
            except PackageNotFoundError:
                pytest.fail(f"{wheel.name} asks for {name}, which is not installed")


ALONE = """
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from anechoic.cli import main

def run(*arguments):
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(list(arguments))
        except SystemExit as end:
            return int(end.code or 0), out.getvalue(), err.getvalue()

code, out, _ = run("--help")
assert code == 0, code
assert all(name in out for name in ("generate", "check", "calibrate", "audit", "screen")), out
assert "bench" not in out, out
for name in ("demo", "bench", "basin", "doctor"):
    code, _, err = run(name)
    assert code == 2, (name, code)
    assert "pip install 'anechoic[lab]'" in err, err
code, _, err = run("check", "clips/0.wav", "--index", "demo")
assert code == 2, code
assert "model 'demo' is part of the laboratory" in err, err
for name in ("aisfx", "clip"):
    code, _, err = run("index", "build", "clips", "-o", "other.index", "--embedder", name)
    assert code == 2 and "pip install 'anechoic[lab]'" in err, err
code, out, err = run("index", "build", "clips", "-o", "clips.index")
assert code == 0, err
code, out, err = run("check", "clips/1.wav", "--index", "clips.index", "--threshold", "0.95")
assert code == 1, (out, err)
code, out, err = run("check", "other.wav", "--index", "clips.index", "--threshold", "0.95")
assert code == 0, (out, err)
code, out, err = run("audit", "--audio", "clips", "--index", "clips.index", "--threshold", "0.95",
                     "-o", "report")
assert code == 1, (out, err)
"""


def test_the_core_alone_builds_an_index_checks_and_audits(
    core_wheel: Path, libraries: Path, tmp_path: Path
) -> None:
    for i in range(4):
        audio.write(tmp_path / f"clips/{i}.wav", tune(i), RATE)
    lines = ["file_name,caption", *(f"{i}.wav,tune {i}" for i in range(4))]
    (tmp_path / "clips/metadata.csv").write_text("\n".join(lines))
    audio.write(tmp_path / "other.wav", tune(99), RATE)
    done = run(ALONE, install(core_wheel, tmp_path / "site"), libraries, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


BOTH = """
from importlib.metadata import entry_points
from anechoic import models
from anechoic.index import TrainingIndex

for group in ("anechoic.commands", "anechoic.models", "anechoic.tasks", "anechoic.embedders"):
    for point in entry_points(group=group):
        point.load()
assert {"demo", "bench", "basin", "doctor"} <= entry_points(group="anechoic.commands").names
index = TrainingIndex.load(models.index_folder("demo"))
sound, rate = models.find("demo").sound(index.clips[0])
print(len(index), rate, tuple(sound.shape))
"""


@pytest.mark.slow
def test_the_laboratory_adds_its_commands_and_its_model(
    core_wheel: Path, lab_wheel: Path, libraries: Path, tmp_path: Path
) -> None:
    core, lab = install(core_wheel, tmp_path / "core"), install(lab_wheel, tmp_path / "lab")
    done = run(BOTH, core, lab, libraries, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1715 16000 (1, 16384)\n"
