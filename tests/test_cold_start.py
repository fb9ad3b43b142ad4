"""What a fresh interpreter loads: told by modules, for a clock says more of the machine."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

import anechoic
import anechoic.audit

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
