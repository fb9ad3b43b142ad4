"""The check of repeated code, which `make lint` runs."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts/duplicates.py"
REPEATED = "".join(f"y{i} = x + {i}  # {{0}}\n" for i in range(6))


def run(folder: Path, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    names = runpy.run_path(str(SCRIPT))
    monkeypatch.setitem(names["main"].__globals__, "ROOT", folder)
    monkeypatch.setattr("sys.argv", ["duplicates.py", str(limit)])
    names["main"]()


def test_code_that_is_repeated_past_the_limit_fails_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("src", "tests"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text(f"x = '{folder}'\n" + REPEATED.format(folder))
    run(tmp_path, 1, monkeypatch)
    with pytest.raises(SystemExit) as end:
        run(tmp_path, 0, monkeypatch)
    assert end.value.code == 1
    assert "src/a.py:2-7 ~ tests/a.py:2-7" in capsys.readouterr().out


def test_imports_that_are_repeated_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "src").mkdir()
    for name in ("a", "b"):
        imports = "from c import (\n" + "".join(f"    n{i},\n" for i in range(9)) + ")\n"
        (tmp_path / f"src/{name}.py").write_text(imports + f"x = '{name}'\n")
    run(tmp_path, 0, monkeypatch)
