"""Commands that write an index, killed at each file operation in turn."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.commands import Run, exit_code
from support.pipelines import make_pipe
from support.sounds import RATE, tune

from anechoic import TrainingIndex, audio
from anechoic.diffusers import loading
from anechoic.index import search, structure
from anechoic.index.plan import Plan

pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/self/fd"), reason="tells the names of open folders on Linux alone"
)

WITHDRAWN = "withdrawn-clip"
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
OPERATIONS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")


class Killed(BaseException):
    """Nothing that is cleaned up after an error may run after a kill."""


class _Killer:
    """Raises at the n-th operation on files below a folder, and at all that follow."""

    def __init__(self) -> None:
        self.folder, self.left, self.process = "", 0, 0
        sys.addaudithook(self._watch)

    def _watch(self, event: str, values: tuple[Any, ...]) -> None:
        if not self.folder or self.process != os.getpid():
            return
        writes = event == "open" and isinstance(values[2], int) and values[2] & WRITING
        if not (writes or event in OPERATIONS) or isinstance(values[0], int):
            return
        path = os.fsdecode(values[0])
        if event != "open" and values[-1] >= 0:  # as in `shutil.rmtree`, below an open folder
            path = os.path.join(os.readlink(f"/proc/self/fd/{values[-1]}"), path)
        if path.startswith(self.folder) and not path.endswith(".lock"):
            self.left -= 1
            if self.left < 0:
                raise Killed

    @contextmanager
    def at(self, number: int, folder: Path) -> Iterator[None]:
        self.folder, self.left, self.process = str(folder.resolve()), number, os.getpid()
        try:
            yield
        finally:
            self.folder = ""


KILLER = _Killer()  # an audit hook stays as long as the process


def vectors(path: Path, names: list[str], seed: int) -> Path:
    """Embeddings made elsewhere."""
    drawn = np.random.default_rng(seed).standard_normal((len(names), 8)).astype(np.float32)
    rows = {"id": names, "caption": [f"of {name}" for name in names], "embedding": list(drawn)}
    pq.write_table(pa.table(rows), path)
    return path


@cache
def trained(sample: bytes, dim: int, plan: Plan) -> bytes:
    return structure.train(np.frombuffer(sample, np.float32).reshape(-1, dim), plan)


def train_once(sample: np.ndarray, plan: Plan) -> bytes:
    """The same vectors always give the same structure, so a hundred runs share it."""
    return trained(sample.tobytes(), sample.shape[1], plan)


@pytest.fixture
def run(command: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs commands that train once."""
    monkeypatch.setattr(
        search, "structure", SimpleNamespace(**vars(structure) | {"train": train_once})
    )
    return command


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of embeddings, more of them, and an index of the first with a search."""
    folder = tmp_path_factory.mktemp("kills")
    names = [WITHDRAWN, *(f"clip-{number}" for number in range(299))]
    vectors(folder / "set.parquet", names, 0)
    vectors(folder / "more.parquet", ["new-1", "new-2"], 1)
    words = ("-o", folder / "more", "--embedder", "given")
    assert exit_code("index", "build", folder / "more.parquet", *words) == 0
    for kind in ("exact", "ivfpq"):
        words = ("-o", folder / kind, "--embedder", "given", "--search", kind, "--shard", "200")
        assert exit_code("index", "build", folder / "set.parquet", *words) == 0
    return folder


def state(folder: Path) -> tuple[list[str], str, list[str] | None, tuple[str, ...]]:
    index = TrainingIndex.load(folder)
    latents = index.latents and sorted(clip.id for clip in index.latents.clips)
    return sorted(clip.id for clip in index.clips), type(index.rows).__name__, latents, index.covers


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != ".lock"
    }


def goes_on_after_each_kill(
    run: Run, begin: Callable[[], None], index: Path, *words: str | Path
) -> None:
    """Kill a command at each operation in turn, and end it: as if it had not been killed."""
    begin()
    assert run("index", *words)[0] == 0
    expected, files = state(index), contents(index)
    number = 0
    while True:
        begin()
        try:
            with KILLER.at(number, index.parent):
                run("index", *words)
            break
        except Killed:
            pass
        code, _, err = run("index", *words)
        assert code == 0, f"killed at operation {number}: {err}"
        assert state(index) == expected, f"killed at operation {number}"
        assert contents(index).keys() == files.keys(), f"killed at operation {number}"
        if words[0] == "remove":
            for file, content in contents(index).items():
                assert WITHDRAWN.encode() not in content, (number, file)
        assert [file.name for file in index.parent.iterdir()] == [index.name]
        number += 1
    assert number > 3 or words[0] == "cover"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *product(("build", "add", "remove", "fetch", "optimise"), ("exact",)),
        ("optimise", "ivfpq"),
        *(
            pytest.param(name, "ivfpq", marks=pytest.mark.slow)
            for name in ("build", "add", "remove", "fetch")
        ),
        ("overwrite", "exact"),
    ],
)
def test_a_command_that_is_killed_at_any_file_operation_goes_on(
    made: Path, tmp_path: Path, run: Run, name: str, kind: str
) -> None:
    index = tmp_path / "home" / "index"
    other = {"exact": "ivfpq", "ivfpq": "exact"}[kind]
    source = made / {"optimise": other, "overwrite": "more"}.get(name, kind)
    command = "build" if name == "overwrite" else name
    build = (made / "set.parquet", "-o", index, "--embedder", "given", "--search", kind,
             "--shard", "200")  # fmt: skip
    words: dict[str, tuple[str | Path, ...]] = {
        "build": build,
        "overwrite": (*build, "--overwrite"),
        "add": (index, made / "more.parquet"),
        "remove": (index, "--id", WITHDRAWN),
        "fetch": (source, "-o", index),
        "optimise": (index, "--search", kind),
    }  # fmt: skip
    begins_with = None if name in ("build", "fetch") else source
    goes_on_after_each_kill(run, beginning(index, begins_with), index, command, *words[name])


def beginning(index: Path, source: Path | None) -> Callable[[], None]:
    """What is there before a command runs."""

    def begin() -> None:
        shutil.rmtree(index.parent, ignore_errors=True)
        index.parent.mkdir()
        if source is not None:
            shutil.copytree(source, index)

    return begin


# ----------------------------------------------------------------------- of sounds, with latents


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, more of them, and indexes of the first without latents and with them."""
    folder = tmp_path_factory.mktemp("encoded")
    for name, numbers in (("clips", (0, 1, 2)), ("more", (3,))):
        (folder / name).mkdir()
        lines = ["file_name,caption,id"]
        for number in numbers:
            audio.write(folder / name / f"{number}.wav", tune(number), RATE)
            lines.append(f"{number}.wav,a tune,{f'clip-{number}' if number else WITHDRAWN}")
        (folder / name / "metadata.csv").write_text("\n".join(lines))
    words = (folder / "clips", "-o", folder / "plain", "--model", "0123456789abcdef")
    assert exit_code("index", "build", *words) == 0
    shutil.copytree(folder / "plain", folder / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load_pipeline", tiny)
        words = (folder / "whole", folder / "clips", "--model", "tiny")
        assert exit_code("index", "latents", *words) == 0
    return folder


@cache
def tiny(*_: object) -> Any:
    return make_pipe()


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("again", "add", "fetch")]


@pytest.mark.parametrize("name", ["latents", "remove", "cover", *SLOW])
def test_a_command_on_latents_that_is_killed_at_any_file_operation_goes_on(
    encoded: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(loading, "load_pipeline", tiny)
    index = tmp_path / "home" / "index"
    source = encoded / ("plain" if name == "latents" else "whole")
    latents = ("latents", index, encoded / "clips", "--model", "tiny")
    words: dict[str, tuple[str | Path, ...]] = {
        "latents": latents,
        "again": latents,
        "add": ("add", index, encoded / "more"),
        "remove": ("remove", index, "--id", WITHDRAWN),
        "fetch": ("fetch", source, "-o", index),
        "cover": ("cover", index, "fedcba9876543210"),
    }
    begin = beginning(index, None if name == "fetch" else source)
    goes_on_after_each_kill(run, begin, index, *words[name])
