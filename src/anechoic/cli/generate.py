"""`anechoic generate`: text to sound under a guard, and the evidence beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from anechoic.cli.check import exit_code, print_verdicts, rule_to_dict, to_dict
from anechoic.cli.external import ExternalGenerator, Timeout, open_external
from anechoic.cli.options import (
    Device,
    Dtype,
    EmbedderName,
    IndexesOrNone,
    Json,
    Loras,
    ModelOrNone,
    OverwriteFiles,
    Seconds,
    SigningChain,
    SigningKeyFile,
    Steps,
    require_index,
    signing_key,
)
from anechoic.cli.output import numbered, print_json, progress_bar, say
from anechoic.cli.protection import (
    ProtectionOptions,
    by_caption,
    generate_protected,
    print_protection,
)
from anechoic.cli.training import open_verifier
from anechoic.errors import BadSetting, OutputExists
from anechoic.models import KnownModel, find, model_place

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import Tensor

    from anechoic.guidance.base import Guidance
    from anechoic.guidance.step import Record
    from anechoic.index import JoinedIndex, TrainingIndex
    from anechoic.protection import JointJudge, Judge, Protection
    from anechoic.types import Embedder
    from anechoic.verdict import Verdict, Verifier

ANY_SCALE = 2.0  # what the pipeline is called with: inside a guard the guidance owns the scale


@dataclass(frozen=True, eq=False)
class GeneratedFile:
    """One generated sound, what its guard did, and the training clip it comes nearest to."""

    file: Path
    prompt: str
    records: Sequence[Record]
    substitute: str  # the caption that guided it in place of the prompt; empty: the prompt did
    verdicts: Sequence[Verdict]  # by each index


def register(app: typer.Typer) -> None:
    """Add `anechoic generate`."""
    app.command()(generate)


def generate(
    prompts: Annotated[
        list[str], typer.Argument(metavar="PROMPT", help="What to generate, a sound for each.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Sound file to write: .wav, .flac, .ogg or .mp3. With several prompts out.wav "
            "stands for out-1.wav, out-2.wav and so on.",
        ),
    ],
    model: ModelOrNone = None,
    generator: ExternalGenerator = None,
    indexes: IndexesOrNone = None,
    guard: Annotated[
        str | None,
        typer.Option(
            "--guard",
            metavar="NAME",
            help="By default auto (its settings are read off the index); amg, static, dynamic, cfg "
            "(no protection), one that a package adds, or a paper's settings by name, as amg-audio "
            "(docs/reference/methods.md); the demo model has settings of its own for all but auto "
            "and cfg, and opposite.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A setting of the guard, as c3=200; repeatable."
        ),
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="Guidance scale, above 1: short for --set scale=.")
    ] = None,
    steps: Steps = None,
    seconds: Seconds = None,
    timeout: Timeout = 600.0,
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=2**32 - 1, metavar="N", help="Seed of the noise, the same for each prompt."
        ),
    ] = 0,
    loras: Loras = None,
    embedder_name: EmbedderName = None,
    device: Device = None,
    dtype: Dtype = "float32",
    on_copy: Annotated[
        str | None,
        typer.Option(
            "--on-copy",
            metavar="STEPS",
            help="Write only what is verified; of a copy, try in turn: retry (a new seed), guard, "
            "stronger (the guard at a lower threshold), each with a count as retry:3; then refuse, "
            "or report: write it all the same.",
        ),
    ] = None,
    retries: Annotated[
        int | None, typer.Option(min=1, help="New seeds of the step retry; implies --on-copy.")
    ] = None,
    certify: Annotated[
        bool,
        typer.Option(
            "--certify",
            help="Write a certificate beside each file that is verified; implies --on-copy.",
        ),
    ] = False,
    signing_chain: SigningChain = None,
    signing_key_file: SigningKeyFile = None,
    log: Annotated[
        Path | None, typer.Option(help="Append each attempt to this JSON-lines file.")
    ] = None,
    hits: Annotated[
        Path | None, typer.Option(help="Append each copy to this JSON-lines file.")
    ] = None,
    log_prompts: Annotated[
        str, typer.Option(help="Prompts in logs and certificates: clear, hash or omit.")
    ] = "clear",
    allow_unjudged: Annotated[
        bool, typer.Option("--allow-unjudged", help="Write what could not be judged as well.")
    ] = False,
    overwrite: OverwriteFiles = False,
    as_json: Json = False,
) -> None:
    """Generate sound from text, guarded against returning a training clip.

    Prompts are generated one after the other, each from the same seed, so that none depends on the
    others. Nothing is written before all of them are generated. With '--index' each written file is
    then judged, as `anechoic check` judges it.

    With '--on-copy' each output is verified by all detectors that are calibrated for the index, as
    the file would hold it, and written only if each of them says that it is no copy. It is always
    so with '--generator', which no guard reaches.

    Exit codes: 0 no output is a copy, or none was compared (no '--index'); 1 an output is a copy:
    with '--on-copy' nothing of it is written, without, it is; 2 the input cannot be used; 3 an
    output could not be judged, as without a calibration; 70 a fault of anechoic, with a report to
    send in.

    Example: `anechoic generate "low cello note" --model demo --index demo -o out.wav`
    """
    if empty := [number for number, prompt in enumerate(prompts, 1) if not prompt.strip()]:
        raise BadSetting(f"prompt number {empty[0]} is empty; say what is to sound")
    files = _outputs(output, len(prompts), overwrite)
    require_index(*(indexes or []))
    signing = signing_key(signing_chain, signing_key_file)
    options = ProtectionOptions(
        on_copy, retries, signing or certify, log, hits, log_prompts, allow_unjudged
    )
    if generator is not None:
        own = {"--model": model, "--guard": guard, "--set": settings, "--scale": scale,
               "--steps": steps, "--lora": loras, "--device": device}  # fmt: skip
        source = open_external(generator, seconds, timeout, own)
        options = options.of_function(source.seeded)
        if not as_json:
            once = "" if source.seeded else ", after a single attempt: it takes no {seed}"
            say(f"no guard reaches the generator; each sound is verified when it is there{once}")
        made = generate_protected(
            source,
            _judge(indexes, embedder_name, options),
            prompts,
            files,
            None,
            {},
            seed,
            options,
            overwrite,
        )
        about: dict[str, Any] = {
            "generator": generator,
            "index": shown(indexes),
            "guard": None,
            "seed": seed,
        }
        _end(made, about, files, as_json)
    if model is None:
        raise BadSetting("give either '--model MODEL' or '--generator COMMAND_OR_URL', one of them")
    model_place((known := find(model)).pipeline)
    from anechoic import audio
    from anechoic.auto import Auto
    from anechoic.diffusers import lora
    from anechoic.diffusers.loading import load_pipeline
    from anechoic.diffusers.pipelines import call_arguments
    from anechoic.guidance import registry
    from anechoic.guidance.substitution import substitutes
    from anechoic.index import JoinedIndex

    judge = _judge(indexes, embedder_name, options) if options else None
    verifiers = _verifiers(indexes or [], embedder_name) if judge is None else [judge.verifier]
    compared = [one.index for one in verifiers]
    store = judge.index if judge else JoinedIndex.of(compared) if compared else None
    embed = verifiers[0].embedder if verifiers else None
    texts = [*(settings or []), *([] if scale is None else [f"scale={scale}"])]
    guard = guard or "auto"
    method = chosen_guard(guard, known, texts, store, embed)
    pipe = load_pipeline(model, device, dtype, seconds, loras or ())
    sample_rate = _check(pipe, seconds, store, method)
    arguments = call_arguments(pipe, ANY_SCALE, steps or known.steps, seconds)
    because = {"because": method.because} if isinstance(method, Auto) else {}
    adapters = {"loras": loras} if loras else {}
    about = {"model": model, **adapters, "index": shown(indexes), "guard": guard,
             "settings": registry.settings_of(method), **because, "seed": seed}  # fmt: skip
    if not as_json:
        say(*because.values(), *lora.unknown_clips(lora.applied(pipe), [store] if store else []))
    if judge is not None:
        pipe.set_progress_bar_config(disable=True)
        made = generate_protected(
            pipe, judge, prompts, files, method, arguments, seed, options, overwrite
        )
        _end(made, about, files, as_json)
    sounds = []
    for prompt, sound in zip(prompts, _sounds(pipe, method, prompts, seed, arguments), strict=True):
        audio.require_sound(sound[0], f"what was generated for {prompt!r}")
        sounds.append(sound)
    for file, (wav, _) in zip(files, sounds, strict=True):
        audio.write(file, wav, sample_rate, overwrite=overwrite)
    generations = []
    for file, prompt, (_, records) in zip(files, prompts, sounds, strict=True):
        # the file is judged, not the samples before they were rounded
        heard = audio.read(file, allow_silence=True) if verifiers else None
        verdicts = [verifier(*heard) for verifier in verifiers if heard]
        (caption,) = substitutes(records, method, [prompt])
        generations.append(GeneratedFile(file, prompt, records, caption, verdicts))
    if as_json:
        outputs = {"outputs": [_to_dict(one, verifiers) for one in generations]}
        about |= _rules(verifiers) | outputs
        print_json(about)  # a setting may be a LogSNR(value=-1.0)
    else:
        _print(generations, verifiers)
    raise typer.Exit(exit_code([verdict for one in generations for verdict in one.verdicts]))


# ------------------------------------------------------------- refused before anything is generated


def _outputs(output: Path, count: int, overwrite: bool) -> list[Path]:
    """The file of each prompt.

    Raises:
        OutputExists: one is there and may not be replaced.
        BadSetting: a name without a known sound format, or a folder that is not writable.
    """
    from anechoic.containers import writable

    writable(output)
    files = numbered(output, count)
    for file in files:
        writable(file)
        if file.exists() and not overwrite:
            raise OutputExists.at(file)
    folder = next(parent for parent in output.parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise BadSetting(f"'{folder}' is not a folder that can be written to; name another output")
    return files


def _judge(
    indexes: Sequence[str] | None, embedder_name: str | None, options: ProtectionOptions
) -> Judge | JointJudge:
    from anechoic.protection import Policy
    from anechoic.protection.judge import judge_over

    Policy.parse(options.policy() or "refuse")  # refused before anything heavy is read
    if not indexes:
        raise BadSetting(
            "what is written only if it is verified is compared with an index; give it with "
            "'--index', made by 'anechoic index build'"
        )
    return judge_over(indexes, embedder=embedder_name)


def _verifiers(indexes: Sequence[str], embedder_name: str | None) -> list[Verifier]:
    if not indexes and embedder_name is not None:
        raise BadSetting("'--embedder' reads an index: give one with '--index', or leave it out")
    return [open_verifier(index, embedder_name) for index in indexes]


def chosen_guard(
    name: str,
    model: KnownModel,
    texts: Sequence[str],
    store: TrainingIndex | JoinedIndex | None,
    embed: Embedder | None,
) -> Guidance:
    """The guidance of a name: at the model's settings for it, then at those given as text."""
    from anechoic.guidance import registry
    from anechoic.guidance.presets import resolve

    chosen = model.guards.get(name) or resolve(name)
    cls = registry.method(chosen.guard, model.guards)
    given: dict[str, Any] = {"index": store, "embedder": embed}
    given = {name: value for name, value in given.items() if registry.takes(cls, name)}
    if given and store is None:
        raise BadSetting(
            f"guard {name!r} keeps away from the training set and needs its index: give it with "
            "'--index', made by 'anechoic index build'"
        )
    if model.scale is not None and registry.takes(cls, "scale"):
        given["scale"] = model.scale
    settings = {**chosen.settings, **registry.parse(cls, texts)}
    return registry.build(chosen.guard, settings, given)


def _check(
    pipe: Any,
    seconds: float | None,
    store: TrainingIndex | JoinedIndex | None,
    method: Guidance,
) -> int:
    """Refuse what the loaded model cannot do, or the guard cannot guard.

    Returns:
        The sample rate of its sound, in Hz.

    Raises:
        BadSetting: longer sound than it makes, or than the guard hears; or none.
        UnsupportedPipeline: it makes images.
        IndexMismatch: the index is of another model's training set.
    """
    from anechoic.diffusers.pipelines import adapter_for, sound_seconds
    from anechoic.engine.model import require_guardable, require_own_index

    made = sound_seconds(pipe, seconds)
    connection = adapter_for(pipe)
    # the guard has its own index; here it is for the verdict, under whatever guard
    require_own_index(store, connection.fingerprint)
    require_guardable(connection, method, made)
    return connection.sample_rate


# -------------------------------------------------------------------------- generate and judge


def _sounds(
    pipe: Any, method: Guidance, prompts: Sequence[str], seed: int, arguments: Mapping[str, Any]
) -> Iterator[tuple[Tensor, list[Record]]]:
    """The sound [c, t] of each prompt, and what the guard recorded along the way."""
    from anechoic.diffusers.generate import generate as generate_one

    with progress_bar() as bar:
        _draw_steps(pipe, bar, len(prompts))
        for prompt in prompts:
            one = generate_one(pipe, prompt, seed, arguments, method)
            yield one.samples[0], one.records


def _draw_steps(pipe: Any, bar: Progress, runs: int) -> None:
    """Have the steps of the next `runs` generations drawn by rich, in diffusers' bar's place."""
    task = bar.add_task("generating", total=None)

    @contextmanager
    def steps(total: int) -> Iterator[Any]:
        bar.update(task, total=runs * total)
        yield SimpleNamespace(update=partial(bar.advance, task))

    pipe.progress_bar = steps


# -------------------------------------------------------------------------------------- report


def _end(
    made: Protection, about: Mapping[str, Any], files: Sequence[Path], as_json: bool
) -> NoReturn:
    """Print what became of each prompt, and end with its exit code."""
    if as_json:
        print_json({**about, **made.to_dict()})
    else:
        print_protection(made, files)
    raise typer.Exit(made.exit_code)


def shown(indexes: Sequence[str] | None) -> str | Sequence[str] | None:
    """Indexes as JSON holds them: one by its name alone."""
    return indexes[0] if indexes and len(indexes) == 1 else indexes


def _rules(verifiers: Sequence[Verifier]) -> dict[str, Any]:
    if len(verifiers) < 2:
        return rule_to_dict(verifiers[0] if verifiers else None)
    return {"rules": [{"index": one.index.name, **rule_to_dict(one)} for one in verifiers]}


def _to_dict(one: GeneratedFile, verifiers: Sequence[Verifier]) -> dict[str, Any]:
    from anechoic.engine.trace import flags

    notes = {
        name: {
            "count": len(on),
            "first": on[0] if on else None,
            "log_snr": one.records[on[0]].noise.log_snr if on else None,
        }
        for name, on in flags(one.records).items()
    }
    did = {"evaluations": len(one.records), **notes}
    if one.substitute:
        did["substitute"] = one.substitute
    content = {"file": str(one.file), "prompt": one.prompt, "did": did, "copy": None}
    judged = [
        {"index": verifier.index.name, **to_dict(verifier, verdict)}
        for verifier, verdict in zip(verifiers, one.verdicts, strict=True)
    ]
    if len(judged) > 1:
        from anechoic.verdict import together

        status = together(one.verdicts)
        copy = None if status == "not judged" else status == "copy"
        return content | {"verdict": status, "copy": copy, "verdicts": judged}
    return content | {
        name: value for found in judged for name, value in found.items() if name != "index"
    }


def _print(generations: Sequence[GeneratedFile], verifiers: Sequence[Verifier]) -> None:
    from anechoic.engine.trace import summary

    for one in generations:
        say(f"{one.file}: {summary(one.records)}")
        if one.substitute:
            say(f"{one.file}: {by_caption(one.substitute)}")
    if not verifiers:
        say("not compared with any training set; to have it compared, give '--index'")
        return
    names = [(str(one.file), one.prompt) for one in generations]
    for number, verifier in enumerate(verifiers):
        if len(verifiers) > 1:
            say(f"index '{verifier.index.name}':")
        verdicts = [one.verdicts[number] for one in generations]
        print_verdicts(verifier, ("file", "prompt"), names, verdicts)
