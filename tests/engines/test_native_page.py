"""The rows of stable-audio-tools in docs/reference/engines.md, of the version that is installed.

This writes them again, in the environment of a version:

    PYTHONPATH=tests python tests/engines/test_native_page.py
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest
from support.engines_page import Place, row, write, written
from support.native import INSTALLED, LIBRARIES, MISSING
from torch import Tensor

from anechoic import guard

ENGINE = "stable-audio-tools"
MODELS = {"v": "v", "rectified_flow": "flow"}


def rows() -> list[str]:
    """The installed version's rows, from what runs."""
    library, made = LIBRARIES["installed"], []
    for objective, name in MODELS.items():
        model = library.make(objective)
        for sampler in library.samplers(objective):
            settings = {"captions": ["a dog barks"], "sampler": sampler, "steps": 2, "seed": 1,
                        "sample_size": 256, "seconds": 0.125}  # fmt: skip

            def generate(guidance: Any, model: Any = model, settings: Any = settings) -> Tensor:
                sound: Tensor
                if guidance is None:
                    sound = library.generate(model, cfg_scale=7.0, **settings)
                else:
                    with guard(model, guidance):
                        sound = library.generate(model, cfg_scale=2.0, **settings)
                return sound

            made.append(row(Place(ENGINE, version(ENGINE), name, sampler), generate))
    return made


@pytest.mark.engines
@pytest.mark.skipif(not INSTALLED, reason=MISSING)
def test_the_page_shows_what_runs() -> None:
    assert written(ENGINE, version(ENGINE)) == rows(), __doc__


if __name__ == "__main__":
    write(rows(), ENGINE, version(ENGINE))
