"""What is loaded, and when: told by modules and files, for a clock says more of the machine."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from support.embedder_models import save_clap
from support.pipelines import make_pipe

import anechoic
import anechoic.audit
from anechoic import AntiMemorization, TrainingIndex, embedder, guard
from anechoic.index import Sound

# the dependencies that take long to import, or are for a few commands only
HEAVY = (
    "accelerate", "datasets", "diffusers", "faiss", "jinja2", "julius", "matplotlib", "numpy",
    "pandas", "pyarrow", "pyarrow.compute", "pyarrow.dataset", "ray", "scipy", "skimage",
    "soundfile", "torch", "torch._dynamo", "torchsde", "transformers",
)  # fmt: skip


def loaded(*code: str) -> set[str]:
    """What of the heavy modules a fresh interpreter has loaded after some code."""
    told = f"import sys; print(*(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)"
    lines = ["try:", *(f"    {line}" for line in code), "finally:", f"    {told}"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode < 2, done.stderr
    return set(done.stderr.splitlines()[-1].split())


def test_to_import_anechoic_loads_nothing_heavy():
    assert loaded("import anechoic") == set()


def test_the_help_of_each_command_loads_nothing_heavy():
    assert loaded("from anechoic.cli import main", "main(['--help'])") == set()


def test_a_check_with_the_demo_index_loads_what_it_needs_and_no_more(tmp_path):
    file = tmp_path / "tone.wav"
    soundfile.write(file, np.sin(np.arange(22_050) / 10), 22_050)  # to be resampled, too
    run = f"main(['check', {str(file)!r}, '--index', 'demo'])"
    assert loaded("from anechoic.cli import main", run) == {
        "julius", "numpy", "pyarrow", "soundfile", "torch"
    }  # fmt: skip


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
