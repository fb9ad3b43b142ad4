"""The table of a bench: every figure is one that can be computed by hand."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from anechoic_lab.bench import BenchPrompt, Method, Plan, Results, SampleScore
from anechoic_lab.bench.figures import fad, in_span, kad
from anechoic_lab.bench.frontiers import frontiers
from anechoic_lab.bench.plot import plot
from anechoic_lab.bench.run import Layout
from anechoic_lab.bench.table import BACKGROUND, Table, tabulate
from anechoic_lab.bench.write import format_figure, records, sentences, write
from anechoic_lab.metrics import Gaussian, KernelReference, frechet_distance, kernel_distance

from anechoic.errors import BadSetting, OutputExists

PROMPTS = (
    BenchPrompt("a", "rain", "memorized"),
    BenchPrompt("b", "hum", "memorized"),
    BenchPrompt("c", "dog", "ordinary"),
    BenchPrompt("d", "bell", "ordinary"),
)
NONE = Method("none", "unguarded")
FAMILY = tuple(
    Method(f"push/s={s}", f"push, s {s}", "push", {"s": s}, "push", f"s={s}") for s in (1, 2)
)
WEAK = tuple(replace(m, name=m.name.replace("push", "weak"), family="weak") for m in FAMILY)
REFERENCE = np.random.default_rng(0).normal(size=(30, 3))


def made(
    similarity: dict[str, tuple[float, float]], adherence: tuple[float, float]
) -> list[SampleScore]:
    """Two seeds of each prompt: similarity by prompt and seed, adherence by seed."""
    rng = np.random.default_rng(1)
    return [
        SampleScore(
            prompt=p.id, caption=p.caption, group=p.group, seed=seed,
            similarity=similarity.get(p.id, (0.1, 0.1))[seed],
            copied=similarity.get(p.id, (0.1, 0.1))[seed] > 0.85,
            seconds=2.0 + seed, evaluations=100.0, adherence=adherence[seed],
            scores={"mel": similarity.get(p.id, (0.0, 0.0))[seed] / 2},
            quality=rng.normal(size=3).tolist(),
        )
        for seed in (0, 1) for p in PROMPTS
    ]  # fmt: skip


ROWS = {
    "none": made({"a": (0.9, 1.0), "b": (0.8, 0.9)}, (1.0, 0.9)),
    "push/s=1": made({"a": (0.5, 0.5), "b": (0.5, 0.5)}, (0.8, 0.8)),
    "push/s=2": made({"a": (0.2, 0.2), "b": (0.0, 0.0)}, (0.4, 0.4)),
    "weak/s=1": made({"a": (0.7, 0.7), "b": (0.7, 0.7)}, (0.8, 0.8)),
    "weak/s=2": made({"a": (0.6, 0.6), "b": (0.6, 0.6)}, (0.2, 0.2)),
}


def results(
    rows: dict[str, list[SampleScore]] | None = None,
    methods: tuple[Method, ...] = (NONE,),
    prompts: tuple[BenchPrompt, ...] = PROMPTS,
) -> Results:
    plan = Plan("hand", methods, (0, 1), about="made by hand")
    return Results(
        plan=plan,
        layout=Layout("numbers", {"copy": "over 0.85"}, {"all": prompts}, {"all": "f"}),
        rows={("all", name): found for name, found in (rows or ROWS).items()},
        reference={"all": REFERENCE.tolist()},
        baseline={"all": [0.3, 0.5]},
        machines=[{"processor": "abacus", "cores": "10"}],
        computed=0,
    )


@pytest.fixture(scope="module")
def table() -> Table:
    return tabulate(results(methods=(NONE, *FAMILY, *WEAK)), "anechoic bench hand.toml")


def line(table: Table, method: str):
    (found,) = (line for line in table.lines if line.method == method)
    return found


# ---------------------------------------------------------------------------------------- figures


def test_figures_are_taken_over_the_prompts_they_speak_of(table: Table) -> None:
    figures = line(table, "none").figures
    near = [0.9, 1.0, 0.8, 0.9]
    assert figures["similarity"].value == pytest.approx(np.mean(near))
    assert figures["similarity_p95"].value == pytest.approx(np.percentile(near, 95))
    assert figures["score_mel"].value == pytest.approx(np.mean(near) / 2)
    assert figures["copies"].value == 0.75
    assert figures["adherence_memorized"].value == pytest.approx(0.95)
    assert figures["seconds"].value == 2.5
    assert figures["evaluations"].value == 100
    counts = {key: (figure.prompts, figure.clips) for key, figure in figures.items()}
    some, whole = (2, 4), (4, 8)
    assert counts == {
        "similarity": some, "similarity_p95": some, "score_mel": some, "copies": some,
        "adherence_memorized": some, "adherence_ordinary": some, "fad": whole, "kad": whole,
        "seconds": whole, "evaluations": whole,
    }  # fmt: skip
    for figure in figures.values():
        assert figure.low <= figure.value <= figure.high


def test_quality_is_that_of_the_metrics_themselves(table: Table) -> None:
    quality = np.array([row.quality for row in ROWS["none"]])
    figures = line(table, "none").figures
    assert figures["fad"].value == pytest.approx(frechet_distance(REFERENCE, quality), abs=1e-9)
    assert figures["kad"].value == pytest.approx(kernel_distance(REFERENCE, quality), abs=1e-9)


@pytest.mark.parametrize(("clips", "dim", "real"), [(6, 40, 90), (6, 40, 20), (50, 8, 30)])
def test_fad_in_the_span_of_the_clips_is_fad(clips: int, dim: int, real: int) -> None:
    rng = np.random.default_rng(3)
    reference = Gaussian.of(rng.normal(size=(real, dim)) @ rng.normal(size=(dim, dim)))
    quality = rng.normal(size=(clips, dim)) + 2.0
    inner, coordinates, rest = in_span(reference, quality)
    for drawn in (slice(None), rng.integers(0, clips, clips)):
        found = frechet_distance(inner, coordinates[drawn]) + rest
        assert found == pytest.approx(frechet_distance(reference, quality[drawn]), rel=1e-9)


def test_the_background_is_the_training_set_among_itself(table: Table) -> None:
    background = line(table, BACKGROUND).figures
    assert set(background) == {"similarity", "similarity_p95"}
    assert background["similarity"].value == pytest.approx(0.4)


def test_without_a_memorized_group_similarity_is_taken_over_all_prompts() -> None:
    plain = {name: [replace(row, group="") for row in rows] for name, rows in ROWS.items()}
    prompts = tuple(replace(prompt, group="") for prompt in PROMPTS)
    table = tabulate(results(plain, prompts=prompts))
    assert line(table, "none").figures["similarity"].clips == 8
    assert [m.key for m in table.measures if m.key.startswith("adherence")] == ["adherence"]
    assert {m.label for m in table.measures} >= {"similarity", "copies", "adherence"}


def test_one_prompt_has_figures_without_intervals() -> None:
    rows = {name: [row for row in rows if row.prompt == "a"] for name, rows in ROWS.items()}
    table = tabulate(results(rows, prompts=PROMPTS[:1]))
    figure = line(table, "none").figures["similarity"]
    assert (figure.value, figure.low, figure.high) == (pytest.approx(0.95), None, None)
    assert format_figure(line(table, "none"), table.measures[0]) == "0.95"


def test_what_was_not_measured_is_said_not_to_be() -> None:
    rows = {
        name: [replace(row, adherence=None, quality=(), scores={}) for row in rows]
        for name, rows in ROWS.items()
    }
    table = tabulate(replace(results(rows, FAMILY), reference={"all": []}))
    weak = line(table, "push/s=1")
    keys = [m.key for m in table.measures if format_figure(weak, m) == "not measured"]
    assert keys == ["adherence_memorized", "adherence_ordinary", "fad", "kad"]
    assert any("need a reference of real sound" in note for note in table.notes)
    assert table.frontiers == []


def test_too_few_clips_for_fad_and_a_reference_of_copies_are_noted() -> None:
    few = tabulate(replace(results(), reference={"all": [[0.0] * 3] * 5}))
    assert any(note.startswith("KAD is not measured: ") for note in few.notes)
    assert any("FAD in 3-d from 8 clips is biased upward" in note for note in few.notes)


def test_a_clip_alone_has_no_distance() -> None:
    row = ROWS["none"][:1]
    assert fad(Gaussian.of(REFERENCE), row) is None
    assert kad(KernelReference.of(REFERENCE), row) is None


def test_the_same_results_give_the_same_table() -> None:
    assert tabulate(results(), "anechoic bench") == tabulate(results(), "anechoic bench")


# -------------------------------------------------------------------------------------- frontiers


def test_families_are_ranked_by_the_area_that_their_settings_dominate(table: Table) -> None:
    push, weak = table.frontiers
    # protection 0.5 with adherence 0.8, and 0.9 with 0.4
    assert (push.family, push.rank) == ("push", 1)
    assert push.area.value == pytest.approx(0.5 * 0.8 + 0.4 * 0.4)
    assert (weak.family, weak.rank) == ("weak", 2)
    assert weak.area.value == pytest.approx(0.3 * 0.8 + 0.1 * 0.2)
    assert push.area.prompts == 2
    weak_setting, strong = push.settings
    assert (weak_setting.strength, strong.strength) == ("s=1", "s=2")
    assert (weak_setting.protection, weak_setting.adherence) == pytest.approx((0.5, 0.8))
    assert (strong.protection, strong.adherence) == pytest.approx((0.9, 0.4))
    assert weak_setting.best
    assert strong.best
    assert sentences(table)[0].startswith("1. push: area 0.560 [")


def test_a_frontier_is_taken_over_the_clips_whose_adherence_is_known() -> None:
    rows = {
        name: [replace(row, adherence=None if row.prompt == "b" else row.adherence)
               for row in rows if row.group == "memorized"]
        for name, rows in ROWS.items()
    }  # fmt: skip
    (push,) = frontiers("all", FAMILY, rows)
    assert (push.area.prompts, push.area.low) == (1, None)
    assert push.settings[1].protection == pytest.approx(0.8)


# ---------------------------------------------------------------------------------------- writers


def test_markdown_is_one_table_with_its_circumstances(table: Table, tmp_path: Path) -> None:
    text = write(tmp_path / "t.md", table).read_text()
    rows = [row for row in text.splitlines() if row.startswith("|")]
    assert rows[0].startswith("| method | similarity, memorized | 95th percentile, memorized |")
    assert rows[2].startswith("| unguarded | 0.90 [0.")
    assert rows[-1].startswith("| training clips among themselves | 0.40 [0.")
    assert len({row.count("|") for row in rows}) == 1
    for fact in ("- seeds: 0, 1", "- split: report", "- machine: processor abacus, cores 10",
                 "- prompts: all: 2 memorized, 2 ordinary", "- clips: 40, 8 at a time",
                 "- command: anechoic bench hand.toml", "- copy: over 0.85"):  # fmt: skip
        assert fact in text
    assert "1. push: area 0.560" in text


def test_a_name_cannot_break_the_table(tmp_path: Path) -> None:
    found = results(methods=(replace(NONE, label="a | b\nc"),))
    text = write(tmp_path / "t.md", tabulate(found)).read_text()
    assert "| a \\| b c | 0.90 [" in text


def test_csv_and_parquet_hold_the_same_records(table: Table, tmp_path: Path) -> None:
    import pyarrow.parquet

    text = write(tmp_path / "t.csv", table).read_text()
    comments = [row for row in text.splitlines() if row.startswith("#")]
    assert "# seeds: 0, 1" in comments
    data = "\n".join(row for row in text.splitlines() if not row.startswith("#"))
    read = list(csv.DictReader(io.StringIO(data)))
    stored = pyarrow.parquet.read_table(write(tmp_path / "t.parquet", table))
    expected = list(records(table))
    assert stored.to_pylist() == expected
    as_text = [{k: "" if v is None else str(v) for k, v in row.items()} for row in expected]
    assert read == as_text
    assert read[0]["copies"] == "0.75"
    about = json.loads(stored.schema.metadata[b"anechoic"])
    assert about["about"] == dict(table.about)
    assert about["frontiers"][0]["family"] == "push"


def test_json_holds_everything(table: Table, tmp_path: Path) -> None:
    told = json.loads(write(tmp_path / "t.json", table).read_text())
    assert told["lines"][0]["figures"]["copies"]["value"] == 0.75
    assert told["frontiers"][0]["area"]["value"] == table.frontiers[0].area.value
    assert told["about"]["machine"] == "processor abacus, cores 10"


def test_scenarios_are_told_apart(table: Table, tmp_path: Path) -> None:
    lines = [*table.lines, *(replace(line, scenario="other") for line in table.lines)]
    text = write(tmp_path / "t.md", replace(table, lines=lines)).read_text()
    assert "| scenario | method |" in text
    assert "| other | unguarded |" in text


def test_what_is_there_or_no_format_is_refused(table: Table, tmp_path: Path) -> None:
    path = write(tmp_path / "t.md", table)
    with pytest.raises(OutputExists, match="exists already"):
        write(path, table)
    write(path, table, overwrite=True)
    with pytest.raises(BadSetting, match=r"expected one of \.csv, \.json, \.md, \.parquet"):
        write(tmp_path / "t.txt", table)
    with pytest.raises(BadSetting, match="is not a writable folder"):
        write(tmp_path / "absent" / "t.md", table)
    assert [file.name for file in tmp_path.iterdir()] == ["t.md"]


# ------------------------------------------------------------------------------------------- plot


def texts(path: Path) -> list[str]:
    """What is written in an SVG whose text is text."""
    import re

    return re.findall(r"<!-- (.*?) -->", path.read_text())


@pytest.mark.parametrize("family", [True, False])
def test_the_plot_names_methods_and_areas(table: Table, tmp_path: Path, family: bool) -> None:
    if not family:
        lines = [replace(line, family="") for line in table.lines]
        table = replace(table, lines=lines, frontiers=[])
    found = texts(plot(tmp_path / "p.svg", table))
    assert "unguarded" in found
    assert "adherence, memorized → better" in found
    assert any(text.startswith("push, s: area 0.56 [") for text in found) == family
    assert ("push, s 1" in found) != family


def test_the_same_table_gives_the_same_plot(table: Table, tmp_path: Path) -> None:
    made = [plot(tmp_path / name, table).read_bytes() for name in ("a.svg", "b.svg")]
    assert made[0] == made[1]


def test_a_plot_in_pixels_is_a_png(table: Table, tmp_path: Path) -> None:
    assert plot(tmp_path / "p.png", table).read_bytes().startswith(b"\x89PNG")


def test_labels_cover_neither_each_other_nor_a_point() -> None:
    from anechoic_lab.bench.labels import Label, place
    from matplotlib.figure import Figure

    figure = Figure((5, 4))
    axes = figure.subplots()
    points = [(0.5, 0.5), (0.505, 0.5), (0.5, 0.51), (0.51, 0.505), (0.99, 0.99)]
    axes.set(xlim=(0, 1), ylim=(0, 1))
    figure.draw_without_rendering()
    place(axes, [Label(f"method number {i}", x, y, "k") for i, (x, y) in enumerate(points)], [])
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(boxes) == len(points)
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert not any(box.contains(*axes.transData.transform(point)) for point in points)
        assert axes.get_window_extent().contains(box.x0, box.y0)
        assert axes.get_window_extent().contains(box.x1, box.y1)


def test_a_plot_that_cannot_be_made_is_refused(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadSetting, match=r"expected one of \.png, \.svg"):
        plot(tmp_path / "p.pdf", table)
    bare = [replace(line, figures={"similarity": line.figures["similarity"]})
            for line in table.lines]  # fmt: skip
    with pytest.raises(BadSetting, match="adherence was not measured; measure it"):
        plot(tmp_path / "p.png", replace(table, lines=bare))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Exception, match="a plot needs matplotlib, which is not installed"):
        plot(tmp_path / "p.png", table)


@pytest.mark.parametrize("label", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1"])
def test_no_cell_of_a_csv_is_a_formula(tmp_path: Path, label: str) -> None:
    found = results(methods=(replace(NONE, label=label),))
    text = write(tmp_path / "t.csv", tabulate(found)).read_text()
    data = "\n".join(row for row in text.splitlines() if not row.startswith("#"))
    assert next(row["label"] for row in csv.DictReader(io.StringIO(data))) == f"'{label}"
