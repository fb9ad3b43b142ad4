"""How objects look in a notebook: no text in them is markup, and figures show what was recorded."""

import pytest
import torch
from support.sounds import RATE, sounds

from anechoic import AntiMemorization, TrainingIndex, display, embedder
from anechoic.engine.trace import Trace
from anechoic.errors import BadSetting
from anechoic.guidance.noise import NoiseLevel
from anechoic.guidance.step import Record
from anechoic.verdict import Verifier


def test_nothing_in_a_table_is_read_as_markup():
    shown = display.facts_html("<b>", {"<i>name": "</table><script>x\x1b[2J"})
    assert "<b>" not in shown
    assert "<script>" not in shown
    assert "\x1b" not in shown


def test_an_index_a_verdict_and_a_guidance_show_what_they_are():
    clips = sounds(6)
    index = TrainingIndex.build(clips, embedder("magmel"), thresholds={"copy": 0.9})
    assert "6" in index._repr_html_()
    assert "magmel" in index._repr_html_()
    verdict = Verifier.of(index, embedder("magmel"))(clips[0].wav, RATE)
    assert "<caption>copy</caption>" in verdict._repr_html_()
    assert "0.900" in verdict._repr_html_()
    method = AntiMemorization(index, embedder("magmel"))
    assert "lambda_min" in method._repr_html_()
    assert "AntiMemorization" in method._repr_html_()


def records(**notes):
    """Two samples over three evaluations; of each note a list for each evaluation."""
    level = NoiseLevel(0.6, 0.8)
    pairs = torch.ones(3, 2)
    return [
        Record(i / 3, level, pairs[i], (i + 1.0) * pairs[i],
               notes={name: torch.tensor(values[i]) for name, values in notes.items()})
        for i in range(3)
    ]  # fmt: skip


NEAR = {
    "similarity": [[0.5, torch.nan], [0.7, 0.2], [torch.nan, 0.1]],
    "gate": [[False, False], [True, False], [False, False]],
    "substitute": [[-1, -1], [4, -1], [4, -1]],
}


def test_a_trace_says_what_was_done_in_words():
    assert Trace([records(**NEAR)]).summary() == (
        "3 evaluations, near a training clip at 1, another caption from number 2 on, highest "
        "similarity to a training clip 0.700"
    )
    shut = {**NEAR, "gate": [[False, False]] * 3, "substitute": [[-1, -1]] * 3}
    assert Trace([records(**shut)]).summary() == (
        "3 evaluations, never near a training clip, highest similarity to a training clip 0.700"
    )
    assert Trace([records()]).summary() == "3 evaluations"


def test_a_trace_draws_one_sample_over_the_evaluations():
    trace = Trace([records(**NEAR)])
    above, below = trace.plot().axes
    assert above.lines[0].get_xydata().tolist() == pytest.approx(torch.tensor([[1, 0.5], [2, 0.7]]))
    assert len(above.patches) == 1  # where the gate is open
    assert below.lines[0].get_ydata().tolist() == [1.0, 2.0, 3.0]
    assert "generation 1" in trace._repr_html_()
    with pytest.raises(BadSetting, match="expected a sample below 2"):
        trace.plot(2)
    assert len(Trace([records()]).plot().axes) == 1


def test_an_index_draws_how_near_its_clips_come_to_each_other():
    index = TrainingIndex.build(sounds(6), embedder("magmel"), thresholds={"copy": 0.9})
    (axes,) = index.plot().axes
    assert sum(bar.get_height() for bar in axes.patches) == len(index.nearest_others())
    assert axes.lines[0].get_xdata()[0] == 0.9


def test_a_notebook_shows_a_figure():
    figure, _ = display.axes(1, "title")
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_long_title_stays_inside_the_figure():
    figure, _ = display.axes(1, "near a training clip at 40, " * 6)
    figure.canvas.draw()
    title = figure.get_suptitle()
    assert len(title.splitlines()) > 1
    (text,) = figure.texts
    assert text.get_window_extent().width < figure.bbox.width
