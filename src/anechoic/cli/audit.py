"""`anechoic audit`: does a model replicate its training set?"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anechoic.cli.external import ExternalGenerator, Timeout, open_external
from anechoic.cli.options import (
    Device,
    Dtype,
    EmbedderName,
    Indexes,
    Json,
    Loras,
    ModelOrNone,
    SeveralSteps,
    Work,
    require_index,
    require_there,
)
from anechoic.cli.output import numbered, print_table, say
from anechoic.cli.training import at_rate, open_training, progress_of_audit
from anechoic.errors import BadSetting
from anechoic.models import SCALE, KnownModel, find, index_folder, model_place

if TYPE_CHECKING:
    from anechoic.audit import Report
    from anechoic.audit.pipeline import Guarded
    from anechoic.guidance.base import Guidance
    from anechoic.index import JoinedIndex, TrainingIndex
    from anechoic.types import Embedder

WORST = 10  # cases that are printed


def register(app: typer.Typer) -> None:
    """Add `anechoic audit`."""
    app.command()(audit)


def audit(
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder to write the report to, or a page that ends in .html. With several "
            "indexes report stands for report-1, report-2 and so on, one of each.",
        ),
    ],
    indexes: Indexes,
    sounds: Annotated[
        Path | None, typer.Option("--audio", help="Folder of sounds that were made elsewhere.")
    ] = None,
    model: ModelOrNone = None,
    generator: ExternalGenerator = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            help="Prompts, one a line, or a CSV, JSONL or Parquet file with the column caption. "
            "With --audio such a table with the column file_name.",
        ),
    ] = None,
    captions: Annotated[
        bool, typer.Option("--captions", help="Ask for every caption of the indexes.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many prompts, drawn evenly from all.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Each prompt under so many seeds.")] = 1,
    guards: Annotated[
        list[str] | None,
        typer.Option(
            "--guard",
            metavar="'NAME SETTING=VALUE ...'",
            help="none, or a guard with settings, as 'amg c3=200'; repeatable.",
        ),
    ] = None,
    detector: Annotated[
        list[str] | None,
        typer.Option(
            help="nearest (the default: any stretch, by the index's embedder), segments, cosine, "
            "correlation, landmarks, transposed, notes, or one that a package adds; repeatable: "
            "the first decides, the others are shown beside it.",
        ),
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of real sounds that are not in the training set but could have been: all "
            "detectors are calibrated on them.",
        ),
    ] = None,
    fpr: Annotated[
        float | None,
        typer.Option(
            "--fpr",
            help="Share of held-out sound that may be called a copy, by default 0.01, or that of "
            "the index's calibration. With --threshold the share that is known of it.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Score from which on it is a copy, in place of any calibration."),
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="Guidance scale. By default 7, or the demo's.")
    ] = None,
    steps: SeveralSteps = None,
    seconds: Annotated[
        float | None, typer.Option(help="Length of a generation. By default the model's own.")
    ] = None,
    timeout: Timeout = 600.0,
    longest: Annotated[
        float, typer.Option(help="Longer files are listed as not examined; in seconds.")
    ] = 900.0,
    work: Work = Path("audit-work"),
    engine: Annotated[str, typer.Option(help="local, or ray: a cluster's machines.")] = "local",
    jobs: Annotated[
        int | None,
        typer.Option(
            help="Sounds at once. By default 1; with ray, as many as there are GPUs or cores."
        ),
    ] = None,
    loras: Loras = None,
    embedder_name: EmbedderName = None,
    device: Device = None,
    dtype: Dtype = "float32",
    cases: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Sound and pictures of only so many cases of each guard, the worst; of the others "
            "the figures. By default of all.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a report.")] = False,
    as_json: Json = False,
) -> None:
    """Compare generations with the training set, and write a report to look at and listen to.

    With several indexes a guard keeps away from the clips of all, and the same generations are
    compared with each, by its own limits.

    Killed at any moment and started again with the same WORK, it goes on where it was.

    Exit codes: 0 everything was examined, and nothing replicates; 1 a replication was found; 2 the
    input cannot be used; 3 no replication was found, but something could not be examined, or
    nothing was judged, as without a calibration; 70 a fault of anechoic, with a report to send in.

    Example: `anechoic audit --audio takes --index clips.index -o report`

    `anechoic audit --model demo --index demo --captions --limit 50 --guard none --guard amg -o r`
    """
    _require_source(sounds, model, generator, prompts, captions, limit, guards, loras)
    require_there(sounds, held_out, what="folder")
    require_there(None if str(prompts) == "-" else prompts)
    require_index(*indexes)
    if model is not None:
        model_place(find(model).pipeline)
    own = {
        "--guard": guards,
        "--scale": scale,
        "--steps": steps,
        "--lora": loras,
        "--device": device,
    }
    outside = None if generator is None else open_external(generator, seconds, timeout, own)
    if outside is not None and seeds > 1 and not outside.seeded:
        raise BadSetting(
            "'--seeds' needs a place {seed} in the generator, or each prompt may give the same "
            "sound again; add it, or leave '--seeds' out"
        )
    from anechoic import engines
    from anechoic.audit import HeldOut, audit, write_report
    from anechoic.audit.report import require_free
    from anechoic.audit.training import fitted
    from anechoic.detectors import calibration
    from anechoic.index import JoinedIndex
    from anechoic.processes import Processes

    outputs = numbered(output, len(indexes))
    for one in outputs:
        require_free(one, overwrite)
    opened = [open_training(index, embedder_name) for index in indexes]
    store, embed = JoinedIndex.of([training.index for training, _ in opened]), opened[0][1]
    needed = held_out is None and threshold is None
    searching, known = [], []
    for index, (training, _) in zip(indexes, opened, strict=True):
        searching.append([fitted(name, training, embed) for name in detector or ["nearest"]])
        known.append(calibration.read(index_folder(index), needed))
        if fpr is not None and needed:
            known[-1] = at_rate(known[-1], searching[-1][0].name, fpr)
    every = dict.fromkeys(caption for training, _ in opened for caption in training.of_caption)
    source: Any = sounds
    asked: Any = prompts or ()
    today = datetime.now(UTC).date().isoformat()
    about = {"command": shlex.join(["anechoic", *sys.argv[1:]]), "date": today}
    if outside is not None:
        asked, source = asked_prompts(prompts, every, limit), outside
        about["model"] = str(generator)
    if model is not None:
        asked = asked_prompts(prompts, every, limit)
        source, facts = _generators(
            model,
            guards or ["none"],
            store,
            embed,
            scale,
            steps,
            seconds,
            device,
            dtype,
            loras or (),
        )
        about |= facts
    many = engines.find(engine)
    reports, pages = [], []
    for number, (index, (training, _)) in enumerate(zip(indexes, opened, strict=True)):
        workers: Any = nullcontext() if jobs in (None, 1) else Processes(jobs)
        if many is not None:
            workers = many.tasks(jobs)
        with progress_of_audit("examining") as progress, workers as pool:
            report = audit(
                source,
                training,
                embed,
                prompts=asked,
                seeds=range(seeds),
                detectors=searching[number],
                calibrations=known[number],
                held_out=HeldOut(held_out, fpr or 0.01) if held_out else None,
                threshold=threshold,
                false_positive_rate=(
                    fpr if threshold is not None else find(index).false_positive_rate
                ),
                longest_s=longest,
                about=about,
                work=work,
                pool=pool,
                progress=progress,
            )
        reports.append(report)
        pages.append(write_report(report, outputs[number], overwrite=overwrite, cases=cases))
    if as_json:
        written = [page.with_suffix(".json").read_text("utf-8") for page in pages]
        print(written[0] if len(written) == 1 else f'{{"indexes": [{", ".join(written)}]}}', end="")
    else:
        for report, page in zip(reports, pages, strict=True):
            say(*([f"index '{report.training.index.name}':"] if len(reports) > 1 else []))
            _print(report, page)
    judged = all(report.rule is not None and not report.count.unexamined for report in reports)
    copied = any(report.count.replications for report in reports)
    raise typer.Exit(1 if copied else 0 if judged else 3)


# ---------------------------------------------------------------------------------- what to audit


def _require_source(
    sounds: Path | None,
    model: str | None,
    generator: str | None,
    prompts: Path | None,
    captions: bool,
    limit: int | None,
    guards: Sequence[str] | None,
    loras: Sequence[str] | None,
) -> None:
    """Refuse options that do not fit together.

    Raises:
        BadSetting: they do not.
    """
    if [sounds, model, generator].count(None) != 2:
        raise BadSetting(
            "give either '--audio FOLDER', '--model MODEL' or '--generator COMMAND_OR_URL', one of "
            "them"
        )
    if sounds is not None and (captions or guards or limit or loras):
        raise BadSetting(
            "'--captions', '--limit', '--guard' and '--lora' are for generating; with '--audio' "
            "nothing is generated, leave them out"
        )
    if sounds is None and (prompts is None) == (not captions):
        raise BadSetting("a model is asked by '--prompts FILE' or by '--captions', one of them")


def asked_prompts(file: Path | None, captions: Iterable[str], limit: int | None) -> list[str]:
    from anechoic.audit.prompts import read_prompts

    found = list(captions) if file is None else read_prompts(file)
    if limit is None or limit >= len(found):
        return found
    return [found[i * len(found) // limit] for i in range(limit)]


def _generators(
    model: str,
    guards: Sequence[str],
    store: TrainingIndex | JoinedIndex,
    embed: Embedder,
    scale: float | None,
    steps: int | None,
    seconds: float | None,
    device: str | None,
    dtype: str,
    loras: Sequence[str],
) -> tuple[dict[str, Guarded], dict[str, str]]:
    """A generator for each guard, and what the report tells of the model."""
    from anechoic.audit.pipeline import Guarded, Pipeline
    from anechoic.diffusers import lora
    from anechoic.diffusers.loading import load_pipeline

    known = find(model)
    scale, steps = scale or known.scale or SCALE, steps or known.steps
    guided = {text: guidance_named(text, known, store, embed, scale) for text in guards}
    if len(guided) < len(guards):
        raise BadSetting(f"the guards {', '.join(guards)} are not distinct; give each once")
    pipe = load_pipeline(model, device, dtype, seconds, loras)
    pipe.set_progress_bar_config(disable=True)
    pipeline = Pipeline(pipe, model, scale, steps, seconds)
    pipeline.require_own(store)
    facts = pipeline.about
    if unknown := lora.unknown_clips(lora.applied(pipe), [store]):
        say(*unknown, error=True)
        facts["LoRA without clips"] = "; ".join(unknown)
    return {text: Guarded(pipeline, guide) for text, guide in guided.items()}, facts


def guidance_named(
    text: str,
    model: KnownModel,
    store: TrainingIndex | JoinedIndex,
    embed: Embedder,
    scale: float,
) -> Guidance | None:
    """The guidance of a name and settings; a model may have settings of its own for it."""
    from anechoic.guidance import registry

    name, *pairs = shlex.split(text)
    settings: dict[str, Any] = dict(pair.partition("=")[::2] for pair in pairs)
    if name == "none" and not settings:
        return None
    given = {"index": store, "embedder": embed, "scale": scale}
    if (preset := model.guards.get(name)) is not None:
        name, settings = preset.guard, {**preset.settings, **settings}
    return registry.build(name, settings, given)


# ------------------------------------------------------------------------------------- the output


def _print(report: Report, page: Path) -> None:
    from anechoic.audit import cautions

    say(report.sentence)
    for caution in cautions(report):
        say(f"caution: {caution}")
    rows = []
    for rank, one in enumerate(report.examined[:WORST], 1):
        clip = one.result.clip
        caption = "" if clip is None else report.training.clips[clip].caption
        score = f"{one.match.score:.3f}"
        score += "" if one.p_value is None else f" (p {one.p_value:.3g})"
        verdict = {True: "REPLICATES", False: "-", None: "NOT JUDGED"}[one.replicates]
        rows.append((f"{rank}", verdict, score, one.sample.name, caption))
    if rows:
        print_table(("rank", "verdict", "score", report.noun, "nearest training clip"), rows)
    if len(report.examined) > len(rows):
        say(f"the worst {len(rows)} of {len(report.examined)}")
    for lost in report.unexamined[:WORST]:
        say(f"not examined: {lost.sample.name}: {lost.reason}")
    if len(report.unexamined) > WORST:
        say(f"... and {len(report.unexamined) - WORST} more, listed in the report")
    say(f"report: {page}")
