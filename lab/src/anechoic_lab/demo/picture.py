"""The picture of the README: a training clip, and its caption generated unguarded and guarded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from anechoic.audit.html.media import spectrogram_db
from anechoic.errors import BadSetting
from anechoic.guidance import registry
from anechoic.guidance.base import Guidance
from anechoic_lab.bench.plot import STYLE, require_plot, save_plot
from anechoic_lab.demo import assets
from anechoic_lab.demo.corpus import SAMPLE_RATE
from anechoic_lab.demo.methods import METHODS
from anechoic_lab.demo.run import Bench, generate

FLOOR_DB = -50.0


@dataclass(frozen=True, eq=False)
class Panel:
    """One spectrogram of the picture."""

    title: str
    below: str
    wav: Tensor  # [t] at 16 kHz


def draw(
    path: Path,
    prompt: str,
    guard: str = "auto",
    seed: int = 0,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Panel]:
    """Generate a training caption unguarded and guarded, and draw both beside the clip.

    Args:
        path: ends in .png or .svg.
        prompt: the caption of one of the demo's training clips.
        guard: a guard by name, at the demo's settings if it has any for it.
        seed: of both generations.
        overwrite: replace an existing file.
        progress: called with the generations that are done, and how many there are.

    Raises:
        BadSetting: no training clip has this caption, or there is no such guard.
        AnechoicError: as `require_plot`.
    """
    require_plot(path, overwrite)
    registry.method(METHODS[guard].guard if guard in METHODS else guard, METHODS)
    pipe = assets.pipeline()
    bench = Bench.load(assets.SHIPPED, pipe)
    clip = next((clip for clip in bench.clips if clip.caption == prompt), None)
    if clip is None:
        raise BadSetting(
            f"no training clip of the demo has the caption {prompt!r}; 'anechoic demo clips' "
            "writes them all, with a table of their captions"
        )
    given = {"index": bench.index, "embedder": bench.embedder, "scale": assets.CFG_SCALE}
    chosen = METHODS.get(guard)
    method = registry.build(
        chosen.guard if chosen else guard, chosen.settings if chosen else {}, given
    )
    ways: dict[str, Guidance | None] = {"without a guard": None, f"guarded by {guard}": method}
    panels: list[Panel] = []
    rows: list[int] = []
    for done, (title, guidance) in enumerate(ways.items(), 1):
        wav = generate(pipe, [prompt], seed, guidance).wav
        judged = bench.judge(wav, [clip], seed)[0]
        verdict = "a copy" if judged.copied or judged.by_rank else "no copy"
        scores = f"mel {judged.mel:.2f}, rank {judged.rank:.2f}"
        panels.append(Panel(title, f"{scores}: {verdict}", wav[0]))
        rows.append(judged.own)
        if progress is not None:
            progress(done, len(ways))
    own = bench.sound[rows[0]]  # the clip that the plain pipeline comes nearest to
    panels = [Panel("the training clip", f'caption: "{prompt}"', own), *panels]
    _draw(path, panels)
    return panels


def _draw(path: Path, panels: list[Panel]) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    with rc_context({**STYLE, "font.size": 11.0}):
        figure = Canvas((9.0, 2.7), layout="constrained")
        axes: Any = figure.subplots(1, len(panels), sharey=True)
        for axis, panel in zip(axes, panels, strict=True):
            picture = spectrogram_db(panel.wav.numpy(), SAMPLE_RATE)
            axis.imshow(picture, aspect="auto", cmap="magma", vmin=FLOOR_DB, vmax=0.0)
            axis.set_title(panel.title)
            axis.set_xlabel(panel.below)
            axis.set_xticks([])
            axis.set_yticks([])
        axes[0].set_ylabel("frequency")
        save_plot(path, figure, dpi=85)  # under 200 kB
