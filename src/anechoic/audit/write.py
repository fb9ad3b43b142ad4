"""A report on disk: the page, and beside it the same as JSON and Parquet."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from anechoic.audit.cache import write_whole
from anechoic.audit.content import document, rows
from anechoic.audit.html.report import BUDGET, render_audit
from anechoic.audit.result import Report
from anechoic.errors import OutputExists

PAGE, DATA, ROWS, MEDIA = "report.html", "report.json", "report.parquet", "report-media"


def parts(output: str | Path) -> dict[str, Path]:
    """Where the files of a report go.

    Args:
        output: a folder, or the name of the page, which ends in .html.

    >>> [str(path) for path in parts("a/take.html").values()]
    ['a/take.html', 'a/take.json', 'a/take.parquet', 'a/take-media']
    """
    output = Path(output)
    names = [PAGE, DATA, ROWS, MEDIA]
    if output.suffix.lower() not in (".html", ".htm"):
        return {name: output / name for name in names}
    files = [output.name, f"{output.stem}.json", f"{output.stem}.parquet", f"{output.stem}-media"]
    return {name: output.parent / file for name, file in zip(names, files, strict=True)}


def require_free(output: str | Path, overwrite: bool = False) -> None:
    """Refuse to write where something is that may not be replaced.

    Raises:
        OutputExists: a part of the report is there, and `overwrite` is off; or the output is a
            file, or a folder in which there is anything else than a report.
    """
    output = Path(output)
    known = parts(output)
    if known[PAGE] != output:
        if output.exists() and not output.is_dir():
            raise OutputExists(f"'{output}' is a file; name a folder, or a page that ends in .html")
        if output.is_dir():
            strange = sorted({path.name for path in output.iterdir()} - {PAGE, DATA, ROWS, MEDIA})
            if strange:
                raise OutputExists(
                    f"'{output}' holds '{strange[0]}', which is no part of a report; name another "
                    "folder"
                )
    there = [path for path in known.values() if path.exists()]
    if there and not overwrite:
        raise OutputExists(f"'{there[0]}' exists already; name another output or overwrite it")


def write_report(
    report: Report,
    output: str | Path,
    *,
    overwrite: bool = False,
    budget: int = BUDGET,
    cases: int | None = None,
) -> Path:
    """Write the page, the JSON document and the Parquet rows.

    Everything is written under other names first; the page, which needs the rest, comes last.

    Args:
        report: what `audit` found.
        output: a folder, or the name of the page, which ends in .html; the rest lies beside it.
        overwrite: replace a report that is there.
        budget: bytes of sound and pictures in the page itself; what is over it lies in a folder
            beside the page. Up to 25 MB a page opens in a few seconds.
        cases: of how many sounds of each guard, the worst, sound and pictures are shown; the others
            are told in figures. By default of all.

    Returns:
        The page.

    Raises:
        OutputExists: something is there that may not be replaced.
    """
    import pyarrow.parquet

    require_free(output, overwrite)
    places = parts(output)
    folder = places[PAGE].parent
    folder.mkdir(parents=True, exist_ok=True)
    content = document(report, cases)
    page = render_audit(
        content, lambda key: (report.media / key).read_bytes(), places[MEDIA].name, budget
    )
    with tempfile.TemporaryDirectory(prefix=".anechoic-", dir=folder) as scratch:
        new = {name: Path(scratch, name) for name in places}
        new[PAGE].write_text(page.text, "utf-8")
        new[DATA].write_text(_json(content), "utf-8")
        pyarrow.parquet.write_table(rows(content), new[ROWS])
        new[MEDIA].mkdir()
        for key in page.beside:
            shutil.copyfile(report.media / key, new[MEDIA] / key)
        shutil.rmtree(places[MEDIA], ignore_errors=True)
        for name in (MEDIA, ROWS, DATA, PAGE):
            if name != MEDIA or page.beside:
                new[name].replace(places[name])
    return places[PAGE]


def write_page(report: Report, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write the page alone: one file, with all of its sound and pictures in it.

    Raises:
        OutputExists: `path` exists, and `overwrite` is off.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise OutputExists(f"'{path}' exists already; name another output or overwrite it")
    content = document(report)
    page = render_audit(content, lambda key: (report.media / key).read_bytes(), budget=sys.maxsize)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page.text.encode())
    return path


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
