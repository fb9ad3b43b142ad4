"""A story as one HTML file: everything inline, nothing fetched, every word escaped."""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from anechoic.audit.html.chart import curve_svg
from anechoic.audit.html.media import audio_uri, checked, spectrogram_uri
from anechoic.audit.html.story import SIMILARITY, Case, Clip, Column, Judge, MethodRow, Story
from anechoic.errors import BadSetting, OutputExists

if TYPE_CHECKING:
    from jinja2 import Environment


def write_page(path: str | Path, story: Story, overwrite: bool = False) -> Path:
    """Write the story as one self-contained HTML page.

    The page is written under a temporary name and then renamed, so that it is whole or not there.

    Raises:
        OutputExists: `path` is there already and `overwrite` is false.
        BadAudio: a sound is empty, not mono, or not finite.
        BadSetting: the story contradicts itself.
    """
    require_free(Path(path), overwrite)
    return write_whole(Path(path), render(story), overwrite)


def require_free(path: Path, overwrite: bool) -> None:
    """Refuse to replace what is there.

    Raises:
        OutputExists: `path` is there and `overwrite` is false.
    """
    if path.exists() and not overwrite:
        raise OutputExists(f"{path} is there already; choose another name or allow overwriting")


def write_whole(path: Path, text: str, overwrite: bool = False) -> Path:
    """Write a page under a temporary name, then rename it; a lone surrogate becomes '?'.

    Raises:
        OutputExists: `path` appeared in the meantime and `overwrite` is false.
    """
    page = text.encode("utf-8", "replace")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(page)
        os.chmod(temporary, 0o666 & ~_umask())
        if overwrite:
            os.replace(temporary, path)
        else:
            _publish_new(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def render(story: Story) -> str:
    """The page as text."""
    templates = environment()
    templates.globals.update(
        audio_uri=lambda wav, rate, what: audio_uri(checked(wav, what), rate),
        spectrogram_uri=lambda wav, rate, what: spectrogram_uri(checked(wav, what), rate),
        curve_svg=curve_svg,
        top_distance=top_distance,
    )
    clips = distinct_clips(story)
    homes: dict[str, int] = {}
    for at, case in enumerate(story.cases):
        homes.setdefault(case.training.id, at)
    return templates.get_template("story.html").render(
        story=story,
        clips=clips,
        number={clip.id: at for at, clip in enumerate(clips)},
        home=homes,
        others=[clip for clip in clips if clip.id not in homes],
        judges=judges_of(story),
        label={row.name: row.label for row in story.methods},
        slot={row.name: at for at, row in enumerate(story.methods)},
        best={column.key: best_methods(column, story.methods) for column in story.columns},
    )


def environment() -> Environment:
    """Templates of this folder, in which every word is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("anechoic.audit", "html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(web_link=web_link, csp_hash=csp_hash, together=together)
    return templates


def distinct_clips(story: Story) -> list[Clip]:
    """Every training clip of the story once, in order of appearance."""
    seen: dict[str, Clip] = {}
    for case in story.cases:
        for clip in [case.training, *(made.nearest for made in case.generations)]:
            first = seen.setdefault(clip.id, clip)
            if first is not clip and not np.array_equal(first.wav, clip.wav):
                raise BadSetting(
                    f"two training clips with different sound share the id '{clip.id}'; "
                    "give each its own"
                )
    return list(seen.values())


def judges_of(story: Story) -> list[Judge]:
    """The guide's similarity and every judge that gave a score, named even if not described."""
    described = {judge.key: judge for judge in story.judges}
    keys = dict.fromkeys([SIMILARITY, *described])
    for case in story.cases:
        for made in case.generations:
            keys.update(dict.fromkeys(made.scores))
    names = {SIMILARITY: "Similarity (the guide's)"}
    return [described.get(key, Judge(key, names.get(key, key))) for key in keys]


def best_methods(column: Column, methods: Sequence[MethodRow]) -> set[str]:
    """The methods that share the best value of a column as it is shown."""
    if column.better is None:
        return set()
    pick = min if column.better == "lower" else max
    values = {m.name: m.figures[column.key].value for m in methods if column.key in m.figures}
    values = {name: value for name, value in values.items() if np.isfinite(value)}
    if not values:
        return set()
    best = format(pick(values.values()), column.format)
    return {name for name, value in values.items() if format(value, column.format) == best}


def top_distance(case: Case) -> float:
    """The highest finite distance among a case's curves, so that they share one axis."""
    finite = [d[np.isfinite(d)] for made in case.generations if (d := made.curve.distance).size]
    return float(np.concatenate(finite).max(initial=0.0)) if finite else 0.0


def web_link(url: str) -> str:
    """The address if it is a plain web page, else an empty string.

    >>> web_link("https://example.org/a"), web_link("javascript:alert(1)"), web_link("http:/x")
    ('https://example.org/a', '', '')
    """
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return ""
    return url.strip() if parts.scheme in ("http", "https") and parts.netloc else ""


def together(text: str) -> str:
    """Text in which a number stays on the line of its percent sign.

    >>> together("up to 5 % of 12")
    'up to 5\xa0% of 12'
    """
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def csp_hash(script: str) -> str:
    """The hash by which the page's policy allows its own script and no other."""
    digest = hashlib.sha256(str(script).encode()).digest()
    return "sha256-" + base64.b64encode(digest).decode()


def _publish_new(temporary: str, path: Path) -> None:
    """Rename, but never over a file that appeared in the meantime."""
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise OutputExists(f"{path} appeared while it was written; choose another name") from error
    except OSError:  # a file system without hard links
        os.replace(temporary, path)
    else:
        os.unlink(temporary)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
