"""What is loaded, and when: told by modules and files, for a clock says more of the machine."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
import soundfile
import torch
from support.embedder_models import save_clap
from support.pipelines import make_pipe

import anechoic
import anechoic.audit
from anechoic import AntiMemorization, TrainingIndex, embedder, guard, plugins
from anechoic.index import Sound

# the dependencies that take long to import, or are for a few commands only
HEAVY = (
    "accelerate", "datasets", "diffusers", "faiss", "jinja2", "julius", "matplotlib", "numpy",
    "pandas", "pyarrow", "pyarrow.compute", "pyarrow.dataset", "ray", "scipy", "skimage",
    "soundfile", "torch", "torch._dynamo", "torchsde", "transformers",
)  # fmt: skip


def after(*code: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that has run some code, and told last what heavy modules it loaded."""
    told = f"import sys; print(*(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)"
    lines = ["try:", *(f"    {line}" for line in code), "finally:", f"    {told}"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode < 2, done.stderr
    return done


def heavy(done: subprocess.CompletedProcess[str]) -> set[str]:
    """What it told."""
    return set(done.stderr.splitlines()[-1].split())


def loaded(*code: str) -> set[str]:
    """What of the heavy modules a fresh interpreter has loaded after some code."""
    return heavy(after(*code))


def test_to_import_anechoic_loads_nothing_heavy():
    assert loaded("import anechoic") == set()


def test_the_help_of_each_command_loads_nothing_heavy():
    assert loaded("from anechoic.cli import main", "main(['--help'])") == set()


def test_a_path_that_is_not_there_is_refused_before_anything_heavy_is_loaded(tmp_path):
    sound = tmp_path / "a.wav"
    sound.touch()
    there = str(sound)
    commands = [
        ["generate", "x", "--model", "none", "-o", "out.wav"],
        ["generate", "x", "--model", "a/b", "--index", "none", "-o", "out.wav"],
        ["generate", "x", "--model", "a/b", "-o", "out.xyz"],
        ["check", there, "--index", "none"],
        ["check", "none.wav", "--index", "demo"],
        ["audit", "--model", "none", "--captions", "--index", str(tmp_path), "-o", "r"],
        ["audit", "--audio", str(tmp_path), "--index", "none", "-o", "r"],
        ["calibrate", "none", "--index", "demo"],
        ["calibrate", str(tmp_path), "--index", "none"],
        ["screen", "none.txt", "--model", "demo"],
        ["screen", there, "--model", "none"],
        ["index", "build", "none", "-o", "i"],
        ["index", "search", "none", there],
        *(["index", name, "none"] for name in ("info", "optimise", "duplicates")),
        ["index", "add", "none", "clips"],
        ["index", "remove", "none", "--id", "a"],
        ["index", "fetch", "none", "-o", "copy"],
    ]
    run = (
        "from anechoic.cli import main",
        f"for command in {commands!r}:",
        "    try:",
        "        main(command)",
        "    except SystemExit as end:",
        "        if end.code != 2:",
        "            raise SystemExit(70)",
    )
    assert loaded(*run) == set()


WATCH = """
import atexit, gc, sys
searched = []  # what was imported while the garbage collector was on
class Watch:
    def find_spec(self, name, path=None, target=None):
        if gc.isenabled():
            searched.append(name)
def tell():  # after whatever the command line does at the end
    print([name for name in searched if name.startswith("torch")], len(gc.get_objects()))
sys.meta_path.insert(0, Watch())
atexit.register(tell)
"""


def test_a_check_with_the_demo_index_loads_what_it_needs_and_looks_for_no_garbage_in_it(
    tmp_path,
):
    file = tmp_path / "tone.wav"
    soundfile.write(file, np.sin(np.arange(22_050) / 10), 22_050)  # to be resampled, too
    run = f"main(['check', {str(file)!r}, '--index', 'demo'])"
    done = after(*WATCH.splitlines(), "from anechoic.cli import main", run)
    assert heavy(done) == {"julius", "numpy", "pyarrow", "soundfile", "torch"}
    of_torch, left = done.stdout.splitlines()[-1].split()
    assert of_torch == "[]"
    assert int(left) < 1_000  # of half a million


def test_the_packages_that_are_installed_are_searched_once_for_all_groups(monkeypatch) -> None:
    found = metadata.entry_points()
    calls = iter([found])
    monkeypatch.setattr(metadata, "entry_points", lambda: next(calls))
    monkeypatch.setattr(sys, "path", [*sys.path, "another path"])
    for group in ("anechoic.models", "anechoic.embedders"):
        assert list(plugins.entry_points(group)) == list(found.select(group=group)) != []


@pytest.mark.parametrize(
    "package", [anechoic, anechoic.audit], ids=lambda package: package.__name__
)
def test_names_that_load_on_first_use_are_all_there_and_none_is_a_module(package):
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert modules & set(package.__all__) == set()
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing


WATCHED: list[str] | None = None


def note(event: str, arguments: tuple[object, ...]) -> None:
    """What is read or imported while somebody watches; such a hook stays for good."""
    if WATCHED is not None and event in ("open", "import"):
        WATCHED.append(f"{event} {arguments[0]}")


def test_generations_in_a_guard_use_the_model_the_index_and_the_embedder_that_are_loaded(
    tmp_path, generate, monkeypatch
):
    pipe, embed = make_pipe(), embedder(f"clap:{save_clap(tmp_path / 'clap')}")
    noise = torch.randn(2, 1, 48_000, generator=torch.Generator().manual_seed(0))
    clips = [Sound(f"{i}", "low cello note", wav, 48_000) for i, wav in enumerate(noise)]
    TrainingIndex.build(clips, embed).save(tmp_path / "clips.index")
    index = TrainingIndex.load(tmp_path / "clips.index")
    open_gate = AntiMemorization(
        index, embed, scale=7.0, lambda_min=-1.0, lambda_max=-1.0, gradient="x0"
    )
    sys.addaudithook(note)
    with guard(pipe, open_gate) as trace:
        generate(pipe, steps=2, audio_end_in_s=2.0)
        monkeypatch.setattr(sys.modules[__name__], "WATCHED", [])
        generate(pipe, steps=2, audio_end_in_s=2.0)
        assert WATCHED == []
    assert bool(trace.column("gate").all())
