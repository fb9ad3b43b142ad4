"""What a type checker sees of anechoic from outside: the real type of everything public."""

from __future__ import annotations

import ast
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from support.wheels import ROOT, install

import anechoic

LAZY = [
    file
    for root in ("src", "lab/src")
    for file in sorted((ROOT / root).rglob("__init__.py"))
    if "on_first_use(" in file.read_text() and "if TYPE_CHECKING" in file.read_text()
]
CHECKS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
# What takes long to read, and is of no type of ours, is left out, as in our own checks. Bodies of
# functions are not read where errors do not count: signatures are what a user's script sees. With
# the options of our own checks, what those have read of torch and its like is not read again.
CONFIG = f"""
[mypy]
ignore_missing_imports = true
untyped_calls_exclude = {", ".join(CHECKS["untyped_calls_exclude"])}
[mypy-diffusers.*,transformers.*]
follow_imports = skip
[mypy-anechoic.*]
ignore_errors = true
"""
PRIVATE = {"anechoic.cli"}  # commands, whose surface is the command line


def public_names() -> dict[str, list[str]]:
    """What each public package says it offers; `anechoic` first."""
    walked = pkgutil.iter_modules(anechoic.__path__, "anechoic.")
    names = ["anechoic", *(module.name for module in walked if module.name not in PRIVATE)]
    modules = {name: import_module(name) for name in names}
    return {
        name: sorted(module.__all__)
        for name, module in modules.items()
        if hasattr(module, "__all__")
    }


@pytest.mark.parametrize("file", LAZY, ids=lambda file: file.parent.name)
def test_a_type_checker_is_shown_the_names_that_load_on_first_use(file: Path) -> None:
    tree = ast.parse(file.read_text())
    blocks = {ast.unparse(node.test): node for node in tree.body if isinstance(node, ast.If)}
    shown = {
        (alias.name, statement.module)
        for statement in blocks["TYPE_CHECKING"].body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    (names,) = (ast.literal_eval(node) for node in ast.walk(tree) if isinstance(node, ast.Dict))
    homes = {name: module for module, found in names.items() for name in found}
    assert shown == set(homes.items())
    (offered,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    assert sorted(offered) == sorted(homes)


def test_mypy_sees_the_type_of_every_public_name_of_the_installed_wheel(
    core_wheel: Path, tmp_path: Path
) -> None:
    names = public_names()
    script = tmp_path / "script.py"
    lines = [f"import {package}" for package in names]
    lines += [f"reveal_type({package}.{name})" for package in names for name in names[package]]
    script.write_text("\n".join([*lines, "anechoic.gaurd", ""]))
    said = run_mypy(script, install(core_wheel, tmp_path / "site"))
    revealed = re.findall(r'Revealed type is "(.*)"', said)
    assert len(revealed) == sum(map(len, names.values()))
    untyped = [kind for kind in revealed if kind == "Any" or kind.endswith("-> Any")]
    untyped.remove("def (monitor: anechoic.training.monitor.Monitor) -> Any")  # Lightning's type
    assert untyped == []
    errors = [line for line in said.splitlines() if "error:" in line]
    assert len(errors) == 1, errors
    assert '"gaurd"; maybe "guard"?' in errors[0]


def run_mypy(script: Path, site: Path) -> str:
    """What strict mypy says of a script whose anechoic is the one installed in `site`."""
    known, cache = ROOT / ".mypy_cache", script.parent / "cache"
    if known.is_dir():
        shutil.copytree(known, cache)
    else:
        cache.mkdir()
    config = script.with_name("mypy.ini")
    config.write_text(CONFIG)
    command = ["-m", "mypy", "--strict", "--verbose", "--config-file", str(config)]
    done = subprocess.run(
        [sys.executable, *command, "--cache-dir", str(cache), str(script)],
        capture_output=True,
        text=True,
        cwd=script.parent,
        env={**os.environ, "PYTHONPATH": str(site)},
    )
    assert str(site / "anechoic/__init__.py") in done.stderr, done.stdout + done.stderr[-2000:]
    return done.stdout
