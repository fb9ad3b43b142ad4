#!/usr/bin/env python3
"""Build all distributions, and use them as a newcomer would: what passes may be released.

    python scripts/release_check.py [TAG]

All say one version, and the tag the same. A wheel and a source archive of each are built into
dist/ and checked for what a package index shows. The wheels are installed into a fresh environment,
with the newest versions of all they need, and the first commands run in an empty folder. It needs a
network, and what the extra `release` installs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
COMMANDS = """
anechoic --version
anechoic demo --seeds 1 --steps 5 -o demo.html
anechoic demo clips -o clips
anechoic index build clips -o clips.index
anechoic index info clips.index
anechoic index duplicates clips.index
"""


def versions() -> dict[str, str]:
    """Where a version is written, and which."""
    places = {
        "src/anechoic/__init__.py": r'^__version__ = "(.+)"$',
        "lab/pyproject.toml": r'^version = "(.+)"$',
        "cluster/pyproject.toml": r'^version = "(.+)"$',
        "serve/pyproject.toml": r'^version = "(.+)"$',
        "studio/pyproject.toml": r'^version = "(.+)"$',
        "comfyui/pyproject.toml": r'^version = "(.+)"$',
        "CITATION.cff": r"^version: (.+)$",
    }
    found = {place: re.search(form, (ROOT / place).read_text(), re.M)
             for place, form in places.items()}  # fmt: skip
    return {place: match[1] if match else "none" for place, match in found.items()}


def main(tag: str = "") -> None:
    """Run all checks; the first that fails ends the process."""
    said = versions()
    if tag:
        said["the tag"] = tag.removeprefix("v")
        if f"## [{tag.removeprefix('v')}]" not in (ROOT / "CHANGELOG.md").read_text():
            sys.exit(f"CHANGELOG.md has no section for {tag}; write one")
    if len(set(said.values())) > 1:
        sys.exit(f"expected one version everywhere, got {said}")
    shutil.rmtree(DIST, ignore_errors=True)
    for project in (ROOT, ROOT / "lab", ROOT / "cluster", ROOT / "serve", ROOT / "studio"):
        run(sys.executable, "-m", "build", "--outdir", DIST, project)
    run(sys.executable, "-m", "twine", "check", "--strict", *DIST.iterdir())
    with tempfile.TemporaryDirectory(prefix="anechoic-release-") as folder:
        use(Path(folder))
    print(f"{len(list(DIST.iterdir()))} files in {DIST} may be released")


def use(folder: Path) -> None:
    """Install the wheels and run commands with them, as far from this repository as can be."""
    fresh, work = folder / "environment", folder / "work"
    work.mkdir()
    uv = [sys.executable, "-m", "uv"]
    run(*uv, "venv", "--python", sys.executable, fresh)
    run(*uv, "pip", "install", "--python", fresh, *DIST.glob("*.whl"))
    for line in COMMANDS.strip().splitlines():
        command, *words = line.split()
        run(fresh / "bin" / command, *words, cwd=work)


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    """Print a command and run it; end here if it fails."""
    print("$", *command, flush=True)
    if code := subprocess.run(command, cwd=cwd).returncode:
        sys.exit(f"{command[0]} {command[1]} failed with {code}")


if __name__ == "__main__":
    main(*sys.argv[1:])
