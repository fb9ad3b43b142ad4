"""The tabs of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
from markupsafe import Markup

from anechoic.audit import Report, audit, write_page
from anechoic.audit.pipeline import Guarded, Pipeline
from anechoic.certificate import sidecar
from anechoic.cli import index as index_commands
from anechoic.detectors import calibration
from anechoic.errors import AnechoicError, BadSetting
from anechoic.index.duplicates import duplicates
from anechoic.models import index_folder
from anechoic_studio import cards
from anechoic_studio.background import Post, sentence
from anechoic_studio.job import PRIVATE, Job, Updates
from anechoic_studio.studio import GUARDED, PLAIN, Request, Studio, Take

CLUSTERS, ROWS = 12, 200  # shown at once
STARTS = [share / 10 for share in range(11)]  # where guidance starts, when all are drawn
NONE = "none"  # the plain pipeline, in an audit
WIDTH = 320  # of a column, in pixels, below which it goes under the one beside it


def _prompt(studio: Studio) -> list[Any]:
    """A prompt, and the settings beside it."""
    known = studio.suggestions()
    prompt = gr.Dropdown(
        known, value=known[0], allow_custom_value=True, label="Prompt",
        info="Write anything, or choose a caption of a training clip.",
    )  # fmt: skip
    with gr.Row():
        return [
            prompt,
            gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**32 - 1, min_width=90),
            gr.Slider(3, 4 * studio.steps, studio.steps, step=1, label="Steps"),
            gr.Slider(1.1, 3 * studio.scale, studio.scale, step=0.1, label="Guidance scale"),
        ]


def _columns(*ids: str) -> list[gr.HTML]:
    """Places side by side, one below the other on a phone."""
    places = []
    with gr.Row():
        for name in ids:
            with gr.Column(min_width=WIDTH):
                places.append(gr.HTML(elem_id=name))
    return places


def generate(studio: Studio) -> None:
    """Under the guard, verified and certified, beside the unguarded twin."""
    inputs = [*_prompt(studio), gr.Dropdown(studio.guards, value="auto", label="Guard")]
    with gr.Row():
        go = gr.Button("Generate", variant="primary", elem_id="generate")
        stop = gr.Button("Stop", interactive=False, elem_id="stop")
        sound = gr.DownloadButton("Download sound", interactive=False, elem_id="sound")
        paper = gr.DownloadButton("Certificate", interactive=False, elem_id="certificate")
    status = gr.HTML(elem_id="told")
    sides = [GUARDED] if studio.guarded_only else [GUARDED, PLAIN]
    places = dict(zip(sides, _columns(*sides), strict=True))

    def begin(*values: Any) -> Callable[[Post], None]:
        return partial(studio.generate, Request(*values))

    def draw(side: str, take: Take) -> Updates:
        if side not in places:
            return {}
        title = "Under the guard" if side == GUARDED else "Unguarded: to compare, not for release"
        card = cards.take_card(title, take, studio.judge.training, side == GUARDED)
        if side != GUARDED:
            return {places[side]: card}
        paths = (take.file, take.file and sidecar(take.file))
        news = (gr.update(value=path, interactive=path is not None) for path in paths)
        return {places[side]: card, **dict(zip((sound, paper), news, strict=True))}

    outputs = [*places.values(), sound, paper]
    Job(studio, begin, draw, outputs, status, stop).on([go.click], inputs)


def check(studio: Studio) -> None:
    """Verdicts on files, heard beside the training clip."""
    gr.Markdown("Is a sound a copy of a training clip? The files stay on this machine.")
    files = gr.File(
        file_count="multiple", label="Sound files", elem_id="files",
        file_types=[".wav", ".flac", ".ogg", ".mp3"],
    )  # fmt: skip
    verdicts = gr.HTML(elem_id="verdicts")

    def judge(paths: Sequence[str] | None) -> Iterator[Markup]:
        done: list[str] = []
        for path in paths or []:
            yield cards.joined([*done, cards.note(f"Comparing {Path(path).name} ...")])
            try:
                done.append(cards.check_card(studio.check(Path(path)), studio.judge.training))
            except Exception as error:  # the next file is judged all the same
                done.append(cards.problem(sentence(error).replace(path, Path(path).name)))
        yield cards.joined(done)

    files.change(judge, files, verdicts, **PRIVATE)


def explore(studio: Studio) -> None:
    """When does guidance start: the attraction basin."""
    gr.Markdown(
        "Guidance pulls a memorized caption into its training clip: the attraction basin. Hold it "
        "back until the sound is elsewhere, and it leads to something new. Move the slider and "
        "listen; these sounds are to compare, not for release."
    )
    settings, label = _prompt(studio), "Guidance starts after this share of the steps (%)"
    start = gr.Slider(0, 100, 0, step=2, label=label, elem_id="start")
    with gr.Row():
        one = gr.Button("Render", variant="primary", elem_id="render")
        every = gr.Button("Render from 0 to 100 %")
        stop = gr.Button("Stop", interactive=False)
    status, seen = gr.HTML(), gr.State({})
    sound, basin = _columns("explored", "basin")

    def begin(
        starts: Sequence[float] | None, before: dict[Any, Any], at: float, *values: Any
    ) -> Callable[[Post], None]:
        asked = Request(*values)
        points = dict(before.get(asked, {}))  # of the same prompt and settings

        def work(post: Post) -> None:
            for share in [at / 100] if starts is None else starts:
                post("share", share)
                points[share] = studio.explore(asked, share, post)
                post("points", {asked: dict(points)})

        return work

    def draw(place: str, value: Any) -> Updates:
        if place == PLAIN:
            training = studio.judge.training
            return {sound: cards.take_card("What it leads to", value, training, False)}
        if place == "share":
            return {start: 100 * value}
        heads = "guidance starts at", "similarity to the nearest training clip", "", ""
        (points,) = value.values()
        rows = [
            (f"{share:.0%}", cards.bar(score, status), f"{score:.3f}", cards.badge(status))
            for share, (score, status) in sorted(points.items())
        ]
        return {seen: value, basin: cards.table(heads, rows)}

    for triggers, starts in (([one.click, start.release], None), ([every.click], STARTS)):
        job = Job(studio, partial(begin, starts), draw, [sound, basin, seen, start], status, stop)
        job.on(triggers, [seen, start, *settings])


def index(studio: Studio) -> None:
    """What the index holds, and its duplicates to listen to."""
    words = gr.Textbox("", label="Search captions", placeholder="cello")
    clips = gr.HTML(elem_id="clips")

    def listed(asked: str) -> Markup:
        training, wanted = studio.judge.training, (asked or "").lower().split()
        fit = [clip for clip in training.clips if all(w in clip.caption.lower() for w in wanted)]
        about = f"{len(fit)} of {len(training.clips)} clips, by '{training.index.embedder_name}'"
        rows = [(clip.caption, clip.id) for clip in fit[:ROWS]]
        more = "" if len(fit) <= ROWS else f"; the first {ROWS} are here"
        return cards.note(about + more) + cards.table(("caption", "clip"), rows)

    gr.on(None, listed, words, clips, **PRIVATE)  # when the page opens, too
    find = gr.Button("Find duplicates", elem_id="duplicates")
    clusters = gr.HTML(elem_id="clusters")

    def listen() -> Iterator[Markup]:
        yield cards.note("Comparing the clips with each other ...")
        found = duplicates(studio.judge.index)
        shown = [cards.cluster_card(one, studio.judge.training) for one in found[:CLUSTERS]]
        count = f"{len(found)} clusters of clips that stand in the training set more than once"
        yield cards.joined([cards.note(f"{count}; the largest {len(shown)} are here."), *shown])

    find.click(listen, None, clusters, **PRIVATE)
    if not studio.editable:
        gr.Markdown(
            "This index ships with its model and stays as it is. Of an index of your own, named "
            "with `--index`, clips can be added and withdrawn here."
        )
        return
    with gr.Row():
        folder = gr.Textbox(
            label="Add the clips of a folder on this machine: sound files, and their captions in "
            "its metadata.csv",
            elem_id="folder",
        )
        add = gr.Button("Add", elem_id="add")
    with gr.Row():
        ids = gr.Textbox(
            label="Withdraw clips: their names as in the list, one a line", lines=2, elem_id="ids"
        )
        withdraw = gr.Button("Withdraw", variant="stop", elem_id="withdraw")
    status = gr.HTML(elem_id="changed")

    def change(edit: Callable[[str, str], None], value: str) -> Iterator[Updates]:
        yield {status: cards.note("Changing the index ...")}
        try:
            edit(index_folder(studio.index_name), value)
        except (AnechoicError, OSError) as error:
            yield {status: cards.problem(sentence(error))}
            return
        try:
            studio.reopen()
        except (AnechoicError, OSError) as error:
            closed = "The index is changed. Nothing is released until it is opened again, but"
            yield {status: cards.problem(f"{closed}: {sentence(error)}")}
            return
        yield {status: cards.note("Done."), clips: listed("")}

    def without(held: str, names: str) -> None:
        index_commands.remove(held, ids=names.split("\n"))

    add.click(partial(change, index_commands.add), folder, [status, clips], **PRIVATE)
    withdraw.click(partial(change, without), ids, [status, clips], **PRIVATE)


def audits(studio: Studio) -> None:
    """Prompts, generated with and without the guard, and the report."""
    gr.Markdown("Does the model replicate its training set, and does the guard stop it?")
    known = studio.suggestions(24)
    prompts = gr.Dropdown(
        known, value=known[:4], multiselect=True, allow_custom_value=True, label="Prompts"
    )
    guards = gr.CheckboxGroup([NONE, *studio.guards], value=[NONE, "auto"], label="Guards")
    seeds = gr.Slider(1, 10, 1, step=1, label="Seeds of each prompt")
    with gr.Row():
        go = gr.Button("Audit", variant="primary", elem_id="audit")
        stop = gr.Button("Stop", interactive=False)
    status, filled = gr.HTML(), gr.HTML(elem_id="filled")

    def begin(asked: Sequence[str], names: Sequence[str], count: int) -> Callable[[Post], None]:
        if not asked or not names:
            raise BadSetting("an audit needs a prompt and a guard, or 'none'; choose some")
        return partial(_audit, studio, list(asked), list(names), range(count))

    def draw(place: str, value: Any) -> Updates:
        return {filled: value} if place == "filled" else {}

    Job(studio, begin, draw, [filled], status, stop).on([go.click], [prompts, guards, seeds])


def _audit(
    studio: Studio, prompts: Sequence[str], guards: Sequence[str], seeds: range, post: Post
) -> None:
    """Audit one prompt more each time; what was examined is found again in the work folder."""
    pipeline = Pipeline(studio.pipe, studio.known.name, studio.scale, studio.steps)
    sources = {
        name: Guarded(pipeline, None if name == NONE else studio.guard(name, studio.scale))
        for name in guards
    }
    total = len(prompts) * len(guards) * len(seeds)
    for number in range(1, len(prompts) + 1):
        report = audit(
            sources, studio.judge.training, studio.judge.verifier.embedder,
            prompts=prompts[:number], seeds=seeds, about=pipeline.about,
            calibrations=calibration.read(index_folder(studio.index_name)),
            work=studio.work / "audit", progress=lambda now: post("done", now.done),
        )  # fmt: skip
        done = len(report.examined) + len(report.unexamined)
        post("filled", cards.progress(f"{done} of {total} sounds", done / total) + _filled(report))
    page = write_page(report, studio.reports / "report.html", overwrite=True)
    link = Markup('<p><a class="open" target="_blank" href="/gradio_api/file={}">Open the report'
                  "</a></p>").format(quote(str(page)))  # fmt: skip
    post("filled", cards.note(report.sentence) + link + _filled(report))


def _filled(report: Report) -> Markup:
    """The results so far, the worst first."""
    words = {True: "copy", False: "no copy", None: "not judged"}
    rows = [
        (one.sample.name, cards.badge(words[one.replicates]), f"{one.match.score:.3f}")
        for one in report.examined
    ]
    lost = (cards.problem(f"{one.sample.name}: {one.reason}") for one in report.unexamined)
    return cards.table(("sound", "verdict", "similarity"), rows) + cards.joined(lost)
