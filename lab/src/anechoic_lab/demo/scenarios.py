"""Fine-tunes the demo into the ways of memorizing of the Basin paper's four scenarios.

The shipped model memorizes clips that were duplicated. Each scenario here starts from it and
trains a few minutes more:

- `small-set`: fine-tuned on 24 clips, each seen a thousand times, and nothing else;
- `short-captions`: fine-tuned on 48 clips under twelve class-like captions, four clips each;
- `duplicated-captions`: the whole training set, in which twelve captions have three clips each and
  are drawn as often as the duplicated clips were.

The prompts are split by even and odd rows: settings are tuned on one split and reported on the
other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anechoic.errors import AnechoicError
from anechoic.storage import whole_folder
from anechoic_lab.demo import assets
from anechoic_lab.demo.corpus import DUPLICATES, Clip
from anechoic_lab.demo.train import Phase, TrainingRecipe, fine_tune

SHIPPED = "duplicated-clips"  # the model as it ships
CLIPS = "clips.json"


@dataclass(frozen=True)
class Scenario:
    """A training set derived from the demo's, and the number of training steps."""

    name: str
    about: str
    clips: Callable[[list[Clip]], list[Clip | None]]  # None: left out
    steps: int = 1500


def _ordinary(clips: Sequence[Clip], kind: str, seed: int) -> list[int]:
    """Rows of clips that were not duplicated, in random order."""
    rows = [i for i, clip in enumerate(clips) if clip.copies == 1 and clip.kind == kind]
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]


def _distinct(clips: Sequence[Clip], rows: Sequence[int], count: int) -> list[int]:
    """The first `count` rows with distinct captions."""
    chosen: dict[str, int] = {}
    for row in rows:
        chosen.setdefault(clips[row].caption, row)
    return list(chosen.values())[:count]


def _small_set(clips: list[Clip]) -> list[Clip | None]:
    notes = _distinct(clips, _ordinary(clips, "note", 10), 12)
    recordings = _distinct(clips, _ordinary(clips, "recording", 10), 12)
    kept = {*notes, *recordings}
    return [replace(c, copies=DUPLICATES) if i in kept else None for i, c in enumerate(clips)]


def _short_captions(clips: list[Clip]) -> list[Clip | None]:
    by_instrument: dict[str, list[int]] = {}
    for row in _ordinary(clips, "note", 11):
        by_instrument.setdefault(clips[row].instrument, []).append(row)
    kept = {row for rows in list(by_instrument.values())[:12] for row in rows[:4]}
    return [
        replace(c, caption=f"{c.instrument} note", copies=DUPLICATES) if i in kept else None
        for i, c in enumerate(clips)
    ]


def _duplicated_captions(clips: list[Clip]) -> list[Clip | None]:
    taken: dict[str, list[int]] = {}
    for row in _ordinary(clips, "note", 12):
        taken.setdefault(clips[row].caption, []).append(row)
    threes = [rows[:3] for rows in taken.values() if len(rows) >= 3][:12]
    kept = {row for rows in threes for row in rows}
    return [replace(c, copies=DUPLICATES // 3 if i in kept else 1) for i, c in enumerate(clips)]


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("small-set", "fine-tuned on 24 clips and nothing else", _small_set, 1200),
        Scenario(
            "short-captions",
            "fine-tuned on 48 clips under twelve captions of an instrument alone",
            _short_captions,
        ),
        Scenario(
            "duplicated-captions",
            "the whole set again, with twelve captions that stand over three clips each drawn "
            f"{DUPLICATES} times as often",
            _duplicated_captions,
            3000,
        ),
    )
}


def train(
    out: Path,
    names: Sequence[str] = tuple(SCENARIOS),
    demo: Path = assets.SHIPPED,
    seed: int = 0,
    steps: int | None = None,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> None:
    """Train scenarios into `out`, a folder each; existing ones are not trained again.

    Args:
        out: the folder of all scenarios.
        names: names of the scenarios.
        demo: the demo folder that they start from.
        seed: seed of the training.
        steps: in place of each scenario's own, to try it out.
        report: called after each step.

    Raises:
        AnechoicError: an unknown name, or an existing scenario that began from another model.
    """
    for name in names:
        if name not in SCENARIOS:
            raise AnechoicError(f"expected a scenario among {', '.join(SCENARIOS)}, got '{name}'")
    base = assets.calibration(demo)
    for name in names:
        folder = out / name
        if folder.exists():
            load(folder, demo)
            continue
        scenario = SCENARIOS[name]
        clips, sound = assets.training_set(demo)
        changed = scenario.clips(clips)
        rows = [i for i, clip in enumerate(changed) if clip is not None]
        kept = [clip for clip in changed if clip is not None]
        total = steps or scenario.steps
        pipe = fine_tune(
            assets.pipeline(demo),
            kept,
            sound[rows],
            Phase(total, 5e-4, shift=10, tilt=0.05),
            TrainingRecipe(seed=seed),
            partial(_report, report, name, total),
        )
        about = {
            "scenario": name, "seed": seed, "steps": total, "base": base["recipe"], "rows": rows,
            "clips": [asdict(clip) for clip in kept],
        }  # fmt: skip
        with whole_folder(folder) as part:
            pipe.to(dtype=torch.float16).save_pretrained(part / "model", safe_serialization=True)
            (part / CLIPS).write_text(json.dumps(about, indent=1) + "\n")


def _report(
    report: Callable[[str, int, int], None], name: str, total: int, step: int, *rest: object
) -> None:
    report(name, step, total)


def load(folder: Path, demo: Path = assets.SHIPPED) -> tuple[Any, list[int], list[Clip]]:
    """A trained scenario: its pipeline, and the rows and clips that it was trained on.

    Raises:
        AnechoicError: the folder has no scenario, or it began from another model.
    """
    if not (folder / CLIPS).is_file():
        raise AnechoicError(
            f"'{folder}' has no trained scenario; train it with 'anechoic demo scenarios "
            f"-o {folder.parent}'"
        )
    about = json.loads((folder / CLIPS).read_text())
    if about["base"] != assets.calibration(demo)["recipe"]:
        raise AnechoicError(
            f"the scenario in '{folder}' began from another demo model; move it away and train it "
            "again with 'anechoic demo scenarios'"
        )
    pipe = assets.load_model(folder / "model")
    return pipe, about["rows"], [Clip(**clip) for clip in about["clips"]]
