"""Who may import whom: dependencies point one way, and heavy ones stay in their room."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.imports import forbidden

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src/anechoic"
FILES = sorted(SRC.rglob("*.py"))
LEAVES = {"types", "errors"}
ROOMS = {path.relative_to(SRC).parts[0].removesuffix(".py") for path in FILES}
MAY_IMPORT = {
    "__init__": ROOMS - {"cli"},  # what it shows of them, loaded on first use
    "errors": set(),
    "lazy": set(),
    "display": {"errors"},
    "types": {"errors"},
    "audio": {"containers", "errors", "ffmpeg", "parsing", "storage"},
    "containers": {"errors", "framing"},
    "ffmpeg": {"containers", "errors"},
    "framing": set(),
    "storage": {"errors"},
    "parsing": {"errors"},
    "cache": {"errors", "parsing", "storage"},
    "engines": {"errors", "plugins"},
    "plugins": set(),
    "processes": {"errors"},
    "environment": {"processes"},
    "index": LEAVES | {"audio", "display", "parsing", "processes", "storage"},
    "guidance": LEAVES | {"display", "plugins"},
    "generators": {"audio", "errors", "parsing"},
    "metrics": LEAVES,
    "embedders": LEAVES | {"audio", "plugins"},
    "detectors": LEAVES
    | {"audio", "guidance", "index", "parsing", "plugins", "storage", "transcription"},
    "transcription": {"errors"},
    "testing": LEAVES | {"guidance"},
    "engine": LEAVES | {"display", "guidance"},
    "auto": LEAVES | {"detectors", "embedders", "guidance", "index"},
    "diffusers": LEAVES
    | {"auto", "cache", "engine", "guidance", "index", "models", "parsing", "storage"},
    "stable_audio_tools": LEAVES | {"auto", "diffusers", "engine", "guidance"},
    "guards": {"auto", "diffusers", "engine", "stable_audio_tools"},
    "models": {"errors", "guidance", "index", "lazy", "plugins"},
    "verdict": LEAVES | {"audio", "detectors", "display", "embedders", "index", "storage"},
    "training": LEAVES
    | {"audio", "diffusers", "embedders", "guidance", "index", "lazy", "metrics", "parsing"}
    | {"stable_audio_tools", "storage", "verdict"},
    "certificate": LEAVES
    | {"audio", "detectors", "environment", "index", "parsing", "storage", "verdict"},
    "audit": ROOMS - {"cli", "evidence", "protection"},
    "evidence": {"audit", "certificate", "errors", "index", "metrics", "parsing", "storage"},
    "protection": ROOMS - {"cli"},
    "cli": ROOMS,
    "__main__": {"cli"},
}
HOMES: dict[str, set[str]] = {
    "anechoic_lab": set(),
    "av": {"ffmpeg"},
    "c2pa": {"certificate"},
    "comfy": set(),
    "comfyui_anechoic": set(),
    "cryptography": {"certificate"},
    "datasets": {"index"},
    "diffusers": {"diffusers"},
    "faiss": {"index"},
    "filelock": {"storage"},
    "folder_paths": set(),
    "fontTools": {"evidence"},
    "fpdf": {"evidence"},
    "fsspec": {"index", "storage"},
    "httpx2": {"generators"},
    "ijson": {"index"},
    "jinja2": {"audit"},
    "lightning": {"training"},
    "matplotlib": {"display", "evidence"},
    "onnxruntime": {"transcription"},
    "pyarrow": {"audit", "index", "parsing"},
    "pytorch_lightning": {"training"},
    "ray": set(),
    "stable_audio_tools": set(),
    "tensorboard": {"training"},
    "typer": {"cli"},
    "wandb": {"training"},
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    assert forbidden(path, SRC, MAY_IMPORT, HOMES) == set()


@pytest.mark.parametrize("folder", ["src", "tests"])
def test_no_file_is_a_drawer_for_odds_and_ends(folder: str) -> None:
    files = list((ROOT / folder).rglob("*.py"))
    assert [file.name for file in files if file.stem in ("utils", "helpers", "common")] == []
