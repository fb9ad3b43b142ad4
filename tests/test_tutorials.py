"""The tutorials run from the first cell to the last, and are stored without what they print.

tests/test_docs.py finds dead links, imports that do not exist and commands that are not understood
in them, as in any page.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs/tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
FAIL = """
shell = get_ipython()


def system(command, run=shell.system):
    run(command)
    # 1 is the answer of an audit that found a copy
    assert shell.user_ns["_exit_code"] in (0, 1), command


shell.system = system
"""  # Jupyter itself goes on after a command that failed

each = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)


@each
def test_a_notebook_is_stored_without_outputs_and_its_cells_keep_their_names(
    notebook: Path,
) -> None:
    content = json.loads(notebook.read_text("utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    cells = content["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"]] == []
    names = [cell["id"] for cell in cells]
    assert len(names) == len(set(names))
    by_hand = re.compile(r"[a-z]+(-[a-z]+)*")  # Jupyter draws digits, other ones each time
    assert [name for name in names if not by_hand.fullmatch(name)] == []


def test_the_page_of_the_tutorials_links_each_notebook() -> None:
    page = (FOLDER / "index.md").read_text()
    assert NOTEBOOKS
    assert [path.name for path in NOTEBOOKS if f"]({path.name})" not in page] == []


@pytest.mark.slow  # about half a minute each
@each
def test_a_notebook_runs(notebook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = "installed by: make notebooks"
    nbformat = pytest.importorskip("nbformat", reason=missing)
    nbclient = pytest.importorskip("nbclient", reason=missing)
    pytest.importorskip("ipykernel", reason=missing)
    # the commands of this environment, as where it is activated
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    monkeypatch.setenv("PATH", path)
    content = nbformat.read(notebook, as_version=4)
    nbformat.validate(content)
    content.cells.insert(0, nbformat.v4.new_code_cell(FAIL))
    where = {"metadata": {"path": str(FOLDER)}}
    client = nbclient.NotebookClient(
        content, timeout=900, kernel_name="python3", resources=where
    )  # fmt: skip
    client.execute()
