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
from anechoic.cli.generate import chosen_guard
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


def _prompt(studio: Studio, first: int = 0) -> gr.Dropdown:
    """A prompt, written or chosen among captions."""
    known = studio.suggestions()
    return gr.Dropdown(
        known, value=known[first], allow_custom_value=True, filterable=True, label="Prompt",
        info="Write anything, or choose a caption of a training clip.",
    )  # fmt: skip


def _settings(studio: Studio) -> list[Any]:
    """Seed, steps and scale."""
    return [
        gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**32 - 1, min_width=90),
        gr.Slider(3, 4 * studio.steps, studio.steps, step=1, label="Steps"),
        gr.Slider(1.1, 3 * studio.scale, studio.scale, step=0.1, label="Guidance scale"),
    ]


def _side(studio: Studio, take: Take, released: bool, title: str) -> Markup:
    return cards.take_card(title, take, studio.judge.training, released)


# ------------------------------------------------------------------------------------- generate


def generate(studio: Studio) -> None:
    """Under the guard, verified and certified, beside the unguarded twin."""
    prompt = _prompt(studio)
    with gr.Row():
        settings = _settings(studio)
        guard = gr.Dropdown(studio.guards, value="auto", label="Guard", min_width=120)
    with gr.Row():
        go = gr.Button("Generate", variant="primary", elem_id="generate")
        stop = gr.Button("Stop", interactive=False, elem_id="stop")
    status = gr.HTML(elem_id="told")
    with gr.Row():
        with gr.Column(min_width=320):
            guarded = gr.HTML(elem_id="guarded")
            with gr.Row():
                sound = gr.DownloadButton("Download sound", interactive=False, elem_id="sound")
                paper = gr.DownloadButton("Certificate", interactive=False, elem_id="certificate")
        with gr.Column(min_width=320, visible=not studio.guarded_only):
            plain = gr.HTML(elem_id="plain")

    def begin(text: str, seed: int, steps: int, scale: float, name: str) -> Any:
        return partial(studio.generate, Request(text or "", seed, steps, scale, name))

    def draw_guarded(take: Take) -> Updates:
        there = take.file is not None
        return {
            guarded: _side(studio, take, True, "Under the guard"),
            sound: gr.update(value=take.file, interactive=there),
            paper: gr.update(value=sidecar(take.file) if take.file else None, interactive=there),
        }

    def draw_plain(take: Take) -> Updates:
        return {plain: _side(studio, take, False, "Without a guard: to compare, not for release")}

    draw = {GUARDED: draw_guarded, PLAIN: draw_plain}
    job = Job(studio, begin, draw, [guarded, plain, sound, paper], status, stop)
    job.on([go.click], [prompt, *settings, guard])


# ---------------------------------------------------------------------------------------- check


def check(studio: Studio) -> None:
    """Verdicts on files, heard beside the training clip."""
    gr.Markdown("Is a sound a copy of a training clip? The files stay on this machine.")
    files = gr.File(
        file_count="multiple", label="Sound files", elem_id="files",
        file_types=[".wav", ".flac", ".ogg", ".mp3"],
    )  # fmt: skip
    verdicts = gr.HTML(elem_id="verdicts")

    def judge(paths: Sequence[str] | None) -> Iterator[Any]:
        done: list[str] = []
        for path in paths or []:
            yield cards.joined([*done, cards.note(f"Comparing {Path(path).name} ...")])
            try:
                take = studio.check(Path(path))
                done.append(cards.check_card(take, studio.judge.training))
            except Exception as error:  # the next file is judged all the same
                done.append(cards.problem(sentence(error).replace(path, Path(path).name)))
        yield cards.joined(done)

    files.change(judge, files, verdicts, **PRIVATE)


# -------------------------------------------------------------------------------------- explore


def explore(studio: Studio) -> None:
    """When does guidance start: the attraction basin."""
    gr.Markdown(
        "Guidance pulls a memorized caption into its training clip: the attraction basin. Hold it "
        "back until the sound is elsewhere, and it leads to something new. Move the slider and "
        "listen; these sounds are to compare, not for release."
    )
    prompt = _prompt(studio)
    with gr.Row():
        settings = _settings(studio)
    start = gr.Slider(
        0, 100, 0, step=2, label="Guidance starts after this share of the steps (%)",
        elem_id="start",
    )  # fmt: skip
    with gr.Row():
        one = gr.Button("Render", variant="primary", elem_id="render")
        every = gr.Button("Render from 0 to 100 %")
        stop = gr.Button("Stop", interactive=False)
    status, seen = gr.HTML(), gr.State({})
    with gr.Row():
        with gr.Column(min_width=320):
            sound = gr.HTML(elem_id="explored")
        with gr.Column(min_width=320):
            basin = gr.HTML(elem_id="basin")

    def begin(
        starts: Sequence[float] | None, before: dict[Any, Any], text: str, seed: int, steps: int,
        scale: float, at: float,
    ) -> Any:  # fmt: skip
        asked = Request(text or "", seed, steps, scale)
        points: dict[float, float] = dict(before.get(asked, {}))

        def work(post: Post) -> None:
            for share in [at / 100] if starts is None else starts:
                post("share", share)
                points[share] = studio.explore(asked, share, post)
                post("points", {asked: dict(points)})

        return work

    def draw_sound(take: Take) -> Updates:
        return {sound: _side(studio, take, False, "What it leads to")}

    def draw_points(found: dict[Any, dict[float, float]]) -> Updates:
        rule = studio.judge.verifier.rule
        (points,) = found.values()
        limit = None if rule is None else rule.threshold
        return {seen: found, basin: cards.bars(list(points.items()), limit)}

    def draw_share(share: float) -> Updates:
        return {start: 100 * share}

    draw: dict[str, Callable[[Any], Updates]] = {
        PLAIN: draw_sound,
        "points": draw_points,
        "share": draw_share,
    }
    inputs = [seen, prompt, *settings, start]
    for triggers, starts in (([one.click, start.release], None), ([every.click], STARTS)):
        job = Job(studio, partial(begin, starts), draw, [sound, basin, seen, start], status, stop)
        job.on(triggers, inputs)


# ---------------------------------------------------------------------------------------- index


def index(studio: Studio) -> None:
    """What the index holds, and its duplicates to listen to."""

    def rows(words: str) -> list[list[str]]:
        clips = studio.judge.training.clips
        wanted = (words or "").lower().split()
        fit = (one for one in clips if all(word in one.caption.lower() for word in wanted))
        return [[one.caption, one.id] for one, _ in zip(fit, range(ROWS), strict=False)]

    def about() -> Markup:
        held = studio.judge.index
        return cards.note(
            f"{len(studio.judge.training.clips)} clips, {len(held)} rows of {held.dim} numbers by "
            f"'{held.embedder_name}'. The list shows {ROWS} at most."
        )

    facts = gr.HTML()
    words = gr.Textbox(label="Search captions", placeholder="cello")
    table = gr.Dataframe(
        headers=["caption", "clip"], interactive=False, max_height=320, wrap=True, type="array"
    )
    # when the page opens, too
    gr.on(None, lambda text: (about(), rows(text)), words, [facts, table], **PRIVATE)
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
        folder = gr.Textbox(label="Add the clips of a folder on this machine")
        add = gr.Button("Add")
    with gr.Row():
        ids = gr.Textbox(label="Withdraw clips: their names as in the list, one a line", lines=2)
        withdraw = gr.Button("Withdraw", variant="stop")
    status = gr.HTML()

    def change(edit: Callable[[str], None]) -> Iterator[Updates]:
        yield {status: cards.progress("Changing the index ...", 0.5)}
        try:
            edit(index_folder(studio.index_name))
            studio.reopen()
        except (AnechoicError, OSError) as error:
            yield {status: cards.problem(sentence(error)), facts: about(), table: rows("")}
            return
        yield {status: cards.note("Done."), facts: about(), table: rows("")}

    def add_folder(place: str) -> Iterator[Updates]:
        yield from change(lambda held: index_commands.add(held, place))

    def withdraw_ids(names: str) -> Iterator[Updates]:
        yield from change(lambda held: index_commands.remove(held, ids=names.split("\n")))

    add.click(add_folder, folder, [status, facts, table], **PRIVATE)
    withdraw.click(withdraw_ids, ids, [status, facts, table], **PRIVATE)


# ---------------------------------------------------------------------------------------- audit


def audits(studio: Studio) -> None:
    """Prompts, generated with and without the guard, and the report."""
    gr.Markdown("Does the model replicate its training set, and does the guard stop it?")
    known = studio.suggestions(24)
    prompts = gr.Dropdown(
        known, value=known[:4], multiselect=True, allow_custom_value=True, label="Prompts"
    )
    with gr.Row():
        guards = gr.CheckboxGroup([NONE, *studio.guards], value=[NONE, "auto"], label="Guards")
        seeds = gr.Slider(1, 10, 1, step=1, label="Seeds of each prompt")
    with gr.Row():
        go = gr.Button("Audit", variant="primary", elem_id="audit")
        stop = gr.Button("Stop", interactive=False)
    status, table = gr.HTML(), gr.HTML(elem_id="filled")

    def begin(asked: Sequence[str], names: Sequence[str], count: int) -> Any:
        if not asked or not names:
            raise BadSetting("an audit needs a prompt and a guard, or 'none'; choose some")
        return partial(_audit, studio, list(asked), list(names), range(count))

    def draw(filled: Markup) -> Updates:
        return {table: filled}

    job = Job(studio, begin, {"filled": draw}, [table], status, stop)
    job.on([go.click], [prompts, guards, seeds])


def _audit(
    studio: Studio, prompts: Sequence[str], guards: Sequence[str], seeds: range, post: Post
) -> None:
    """Audit one prompt more each time; what was examined is found again in the work folder."""
    training, embedder = studio.judge.training, studio.judge.verifier.embedder
    pipeline = Pipeline(studio.pipe, studio.known.name, studio.scale, studio.steps)
    texts = [f"scale={studio.scale}"]
    sources = {
        name: Guarded(
            pipeline,
            None
            if name == NONE
            else chosen_guard(name, studio.known, texts, studio.judge.index, embedder),
        )
        for name in guards
    }
    total = len(prompts) * len(guards) * len(seeds)
    for number in range(1, len(prompts) + 1):
        report = audit(
            sources, training, embedder, prompts=prompts[:number], seeds=seeds,
            calibrations=calibration.read(index_folder(studio.index_name)), about=pipeline.about,
            work=studio.work / "audit",
            progress=lambda now: post("done", now.done),
        )  # fmt: skip
        done = len(report.examined) + len(report.unexamined)
        post("filled", cards.progress(f"{done} of {total} sounds", done / total) + _filled(report))
    page = write_page(report, studio.reports / "report.html", overwrite=True)
    link = Markup(
        '<p><a class="open" target="_blank" href="/gradio_api/file={}">Open the report</a></p>'
    ).format(quote(str(page)))
    post("filled", cards.note(report.sentence) + link + _filled(report))


def _filled(report: Report) -> Markup:
    """The results so far, the worst first."""
    rows = cards.joined(
        Markup("<tr><td>{}</td><td>{}</td><td>{:.3f}</td></tr>").format(
            one.sample.name,
            cards.badge({True: "copy", False: "no copy", None: "not judged"}[one.replicates]),
            one.match.score,
        )
        for one in report.examined
    )
    lost = cards.joined(
        cards.problem(f"not examined: {one.sample.name}: {one.reason}") for one in report.unexamined
    )
    return Markup(
        '<table class="filled"><tr><th>sound<th>verdict<th>similarity</tr>{}</table>{}'
    ).format(rows, lost)
