"""docs/reference/pipelines.md: every method with every sampler of the installed library.

This writes its rows of the table again, in the environment of a version:

    PYTHONPATH=tests python tests/engines/test_native_page.py
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from support.methods import DISSIMILARITY, METHODS, method
from support.native import INSTALLED, LIBRARIES, MISSING

from anechoic import guard
from anechoic.errors import AnechoicError
from anechoic.guidance.step import Guided

PAGE = Path(__file__).parents[2] / "docs/reference/pipelines.md"
ROWS = [*METHODS, DISSIMILARITY]
HEAD = [
    "| version | objective | sampler | methods that work | moves the latents |",
    "|---|---|---|---|---|",
]


def moved(step):
    return Guided(5.0, x=step.x + 0.1)


def rows() -> list[str]:
    """The installed version's rows, from what runs."""
    library, made = LIBRARIES["installed"], []
    for objective in ("v", "rectified_flow"):
        model = library.make(objective)
        for sampler in library.samplers(objective):
            settings = {"captions": ["a dog barks"], "sampler": sampler, "steps": 2, "seed": 1,
                        "sample_size": 256, "seconds": 0.125}  # fmt: skip
            plain = library.generate(model, cfg_scale=7.0, **settings)
            refused = []
            for name in ROWS:
                try:
                    with guard(model, method(name, images=False)):
                        sound = library.generate(model, cfg_scale=2.0, **settings)
                except AnechoicError as error:
                    refused.append(f"not `{name}`: {error}")
                else:
                    assert torch.equal(sound, plain) == (name == "cfg"), (sampler, name)
            try:
                with guard(model, moved):
                    library.generate(model, **settings)
                moves = "yes"
            except AnechoicError:
                moves = "refused"
            works = "; ".join(refused) or f"all {len(ROWS)}"
            kind = "v" if objective == "v" else "flow"
            made.append(
                f"| {version('stable-audio-tools')} | {kind} | `{sampler}` | {works} | {moves} |"
            )
    return made


def page(text: str, own: list[str]) -> str:
    """The page with the rows of the installed version as they are today."""
    start, end = "<!-- native: by tests/engines/test_native_page.py -->", "<!-- /native -->"
    before, rest = text.split(start)
    written, after = rest.split(end)
    label = f"| {version('stable-audio-tools')} |"
    others = [line for line in written.splitlines()
              if line.startswith("| 0") and not line.startswith(label)]  # fmt: skip
    lines = "\n".join([*HEAD, *sorted([*others, *own], key=lambda line: line.split("|")[1])])
    return f"{before}{start}\n\n{lines}\n\n{end}{after}"


@pytest.mark.engines
@pytest.mark.skipif(not INSTALLED, reason=MISSING)
def test_the_page_shows_what_runs() -> None:
    written = PAGE.read_text()
    again = "run: PYTHONPATH=tests python tests/engines/test_native_page.py"
    assert page(written, rows()) == written, again


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(), rows()))
