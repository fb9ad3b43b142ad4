"""`anechoic sweep`: at which checkpoint, weight, scale and steps does a model copy?"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anechoic.cli.audit import asked_prompts, guidance_named
from anechoic.cli.options import (
    Device,
    Dtype,
    EmbedderName,
    Json,
    OverwriteFiles,
    Seconds,
    Work,
    require_index,
    require_page,
    require_there,
)
from anechoic.cli.output import print_json, print_table, progress_of, say
from anechoic.cli.training import open_training
from anechoic.errors import BadSetting, IndexMismatch
from anechoic.models import SCALE, find, index_folder, model_place

if TYPE_CHECKING:
    from anechoic.audit.pipeline import Guarded
    from anechoic.audit.sweep import Setting, Sweep
    from anechoic.audit.training import TrainingSet
    from anechoic.diffusers.lora import Lora
    from anechoic.diffusers.lora_files import AdapterFile
    from anechoic.embedders.text import Adherence
    from anechoic.index import TrainingIndex
    from anechoic.types import Embedder

WEIGHTS = (0.4, 0.7, 1.0)


def register(app: typer.Typer) -> None:
    """Add `anechoic sweep`."""
    app.command()(sweep)


def sweep(
    models: Annotated[
        list[str],
        typer.Option(
            "--model",
            help="Folder or hub id of a diffusers pipeline, a checkpoint of stable-audio-tools, or "
            "demo; repeatable, for the checkpoints of a full fine-tuning.",
        ),
    ],
    index: Annotated[
        str, typer.Option("--index", help="Folder of an index of the training set, or demo.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Page to write, .html.")],
    loras: Annotated[
        list[str] | None,
        typer.Option(
            "--lora",
            metavar="FILE",
            help="A LoRA; repeatable, for the checkpoints of its training. One at a time.",
        ),
    ] = None,
    weights: Annotated[
        list[float] | None,
        typer.Option("--weight", help="Weight of the LoRA; repeatable. By default 0.4, 0.7 and 1."),
    ] = None,
    scales: Annotated[
        list[float] | None,
        typer.Option("--scale", help="Guidance scale; repeatable. By default 7, or the demo's."),
    ] = None,
    steps: Annotated[
        list[int] | None,
        typer.Option(
            "--steps", min=2, help="Steps of the sampler; repeatable. By default the model's own."
        ),
    ] = None,
    guards: Annotated[
        list[str] | None,
        typer.Option(
            "--guard",
            metavar="'NAME SETTING=VALUE ...'",
            help="none (the default), auto, or a guard with settings; repeatable.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            help="Prompts, one a line, or a CSV, JSONL or Parquet file with the column caption. By "
            "default the captions of the index.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="Only so many prompts, drawn evenly from all.")
    ] = 50,
    seeds: Annotated[int, typer.Option(min=1, help="Each prompt under so many seeds.")] = 1,
    adherence: Annotated[
        str | None,
        typer.Option(
            help="An embedder of sound and text, such as clap:FOLDER, that measures how well "
            "sounds fit their prompts. By default the index's, if it embeds text, or the demo's "
            "own judge.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Score from which on it is a copy, in place of the calibration."),
    ] = None,
    seconds: Seconds = None,
    embedder_name: EmbedderName = None,
    device: Device = None,
    dtype: Dtype = "float32",
    work: Work = Path("audit-work"),
    overwrite: OverwriteFiles = False,
    as_json: Json = False,
) -> None:
    """Compare checkpoints, LoRA weights, scales, steps and guards, and recommend one.

    Each prompt is generated at each setting and judged as `anechoic audit` judges it. Killed at any
    moment and started again with the same WORK, it goes on where it was.

    Exit codes: 0 the recommended setting gave no copy; 1 every setting gave copies; 2 the input
    cannot be used; 3 in each setting something could not be examined.

    Example: `anechoic sweep --model my-model --lora mine.safetensors --index mine.index -o s.html`

    `anechoic sweep --model demo --index demo --limit 20 --scale 2 --scale 4 -o s.html`
    """
    require_there(prompts, *(Path(lora) for lora in loras or ()))
    require_index(index)
    for model in models:
        model_place(find(model).pipeline)
    require_page(output, overwrite)
    if weights and not loras:
        raise BadSetting("'--weight' is that of a LoRA; name it with '--lora', or leave it out")
    from anechoic.audit.html.sweep import render_sweep
    from anechoic.audit.sweep import Setting
    from anechoic.audit.sweep import sweep as compare
    from anechoic.detectors import calibration
    from anechoic.diffusers import lora_files
    from anechoic.storage import write_whole

    training, embed = open_training(index, embedder_name)
    for lora in loras or ():
        _require_own(lora_files.read_adapter(lora), training.index)
    measure, name = _measure(adherence, models, embed)
    settings = [
        Setting(model, scale or known.scale or SCALE, step or known.steps, lora, weight, guard)
        for model, known in ((model, find(model)) for model in models)
        for lora in loras or (None,)
        for weight in ((weights or WEIGHTS) if lora else (1.0,))
        for scale, step, guard in product(scales or (None,), steps or (None,), guards or ("none",))
    ]
    with progress_of("sweeping", None) as progress:
        found = compare(
            settings,
            _Loader(training, embed, seconds, device, dtype),
            training,
            embed,
            asked_prompts(prompts, training.of_caption, limit),
            range(seeds),
            calibrations=calibration.read(index_folder(index), needed=threshold is None),
            threshold=threshold,
            adherence=measure,
            measured_by=name,
            work=work,
            progress=progress,
        )
    page = render_sweep(found, shlex.join(["anechoic", *sys.argv[1:]]))
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, page.encode())
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found, output)
    best = found.best
    raise typer.Exit(3 if best is None else 1 if best.copies else 0)


def _measure(
    adherence: str | None, models: Sequence[str], embed: Embedder
) -> tuple[Adherence | None, str]:
    """What measures adherence, and its name; None: nothing can."""
    from anechoic.embedders import embedder
    from anechoic.embedders.text import cosine_to_text

    own = {known.adherence: known.name for known in map(find, models)}
    if adherence is None and len(own) == 1 and (measure := next(iter(own))) is not None:
        return measure, f"the judge of model '{own[measure]}'"
    by = embed if adherence is None else embedder(adherence)
    if (cosine := cosine_to_text(by)) is not None:
        return cosine, f"the cosine of sound and prompt by '{by.name}'"
    if adherence is None:
        return None, ""
    raise BadSetting(
        f"expected an embedder of sound and text after '--adherence', and '{by.name}' embeds sound "
        "alone; give clap, or leave it out"
    )


@dataclass
class _Loader:
    """Puts the weights of a setting into place; a model is loaded once for its settings."""

    training: TrainingSet
    embed: Embedder
    seconds: float | None
    device: str | None
    dtype: str
    model: str = ""  # that is loaded
    pipe: Any = None
    file: str | None = None  # of the LoRA that is applied
    lora: Lora | None = None

    def __call__(self, setting: Setting) -> Guarded:
        from anechoic.audit.pipeline import Guarded, Pipeline

        self._place(setting)
        known, store = find(setting.model), self.training.index
        pipeline = Pipeline(self.pipe, setting.model, setting.scale, setting.steps, self.seconds)
        pipeline.require_own(store)
        return Guarded(
            pipeline, guidance_named(setting.guard, known, store, self.embed, setting.scale)
        )

    def _place(self, setting: Setting) -> None:
        from anechoic.diffusers import lora
        from anechoic.diffusers.loading import load_pipeline

        if setting.model != self.model:
            self.pipe = load_pipeline(setting.model, self.device, self.dtype, self.seconds)
            self.pipe.set_progress_bar_config(disable=True)
            self.model, self.file, self.lora = setting.model, None, None
        if setting.lora != self.file and self.lora is not None:
            self.lora.remove()
            self.lora = None
        if setting.lora is not None and self.lora is None:
            self.lora = lora.apply(self.pipe, setting.lora, setting.weight)
        elif self.lora is not None and self.lora.weight != setting.weight:
            self.lora.weight = setting.weight
        self.file = setting.lora


def _require_own(adapter: AdapterFile, index: TrainingIndex) -> None:
    """Refuse an index that names the models it covers, and not this LoRA.

    Raises:
        IndexMismatch: none of its clips are known to be those of the LoRA.
    """
    from anechoic.engine.model import names_any

    if index.model is not None and not names_any(adapter.fingerprint, [index]):
        raise IndexMismatch(
            f"index '{index.name}' holds the training clips of '{index.model}', and not those of "
            f"{adapter.name} ({adapter.fingerprint}), so no copy of these could be found; give the "
            f"index of its clips, or say that this one is: 'anechoic index cover {index.name} "
            f"{adapter.fingerprint}'"
        )


def _print(found: Sweep, page: Path) -> None:
    say(found.sentence)
    rows = []
    for cell in found.cells:
        share = "" if cell.share is None else f"{cell.share.low:.0%} to {cell.share.high:.0%}"
        adherence = "not measured" if cell.adherence is None else f"{cell.adherence:.3f}"
        copies = f"{cell.copies} of {cell.sounds}"
        rows.append((copies, share, adherence, cell.setting.call, cell.setting.checkpoint))
    print_table(("copies", "95 % interval", "adherence", "asked with", "checkpoint"), rows)
    for cell in found.cells:
        for lost in cell.unexamined[:3]:
            say(f"not examined: {cell.setting.label}: {lost}")
    say(f"page: {page}")
