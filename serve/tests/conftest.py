"""A tiny pipeline that memorizes, and its index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.endpoint import save_memorized
from support.model_folder import audible_pipe


@pytest.fixture(scope="session")
def tiny() -> Any:
    return audible_pipe()


@pytest.fixture
def folder(tiny: Any, tmp_path: Path) -> Path:
    """An index of its own for each test, which may damage it."""
    return save_memorized(tmp_path / "index", tiny)
