"""Who may import whom in the laboratory: dependencies point one way there, too."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.imports import forbidden

SRC = Path(__file__).parents[1] / "src/anechoic_lab"
FILES = sorted(SRC.rglob("*.py"))
ROOMS = {path.relative_to(SRC).parts[0].removesuffix(".py") for path in FILES}
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "doctor": set(),
    "embedders": set(),
    "guidance": set(),
    "membership": set(),
    "metrics": set(),
    "bench": {"metrics"},
    "basin": {"bench", "metrics"},
    "demo": {"basin", "bench", "guidance", "metrics"},
    "images": {"basin", "bench", "demo", "embedders", "metrics"},
    "instruments": {"bench", "demo", "images", "metrics"},
    "cli": ROOMS,
}
HOMES = {
    "fluidsynth": {"demo", "instruments"},
    "peft": {"instruments"},
    "matplotlib": {"basin", "bench", "demo", "instruments"},
    "psutil": {"doctor"},
    "python_stretch": {"demo"},
    "rich": {"cli"},
    "skimage": {"images"},
    "typer": {"cli"},
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    assert forbidden(path, SRC, MAY_IMPORT, HOMES) == set()
