"""How objects look in a notebook: a small table, and figures by matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from html import escape
from io import BytesIO
from typing import Any

from anechoic.errors import BadSetting, printable

GUARDED, PLAIN, OPEN = "#0072b2", "#666666", "#e69f00"  # told apart by any kind of colour sight


def facts_html(title: str, facts: Mapping[str, object]) -> str:
    """A table of names and values as HTML; nothing in them is read as markup."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{escape(printable(name))}</th>"
        f"<td style='text-align:left'>{escape(printable(str(value)))}</td></tr>"
        for name, value in facts.items()
    )
    return f"<table><caption>{escape(printable(title))}</caption>{rows}</table>"


def axes(count: int, title: str) -> tuple[Any, list[Any]]:
    """A figure, with `count` axes one above the other.

    Raises:
        BadSetting: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BadSetting(
            "a figure needs matplotlib, which is not installed: pip install 'anechoic[plot]'"
        ) from error

    class Shown(Figure):
        """A figure that a notebook shows without `%matplotlib inline`."""

        def _repr_png_(self) -> bytes:
            self.savefig(drawn := BytesIO(), format="png")
            return drawn.getvalue()

    figure = Shown(figsize=(7, 1 + 1.8 * count), layout="constrained")
    figure.suptitle(textwrap.fill(title, 80), fontsize="medium")
    return figure, list(figure.subplots(count, sharex=True, squeeze=False)[:, 0])
