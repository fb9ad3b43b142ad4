"""`anechoic index duplicates`, from the command to the page and the manifest."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.audits import folder_of
from support.commands import Run, lines
from support.sounds import save_clips, tune

from anechoic import TrainingIndex, embedder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index "i" of five clips, of which two are the same."""
    monkeypatch.chdir(tmp_path)
    sounds = [tune(0), tune(1), 0.5 * tune(1), tune(2), tune(3)]
    save_clips(tmp_path, sounds, caption=["a <b>tune</b>", "one", "one", "two", "two"])
    index = TrainingIndex.build("clips", embedder("magmel"), captions="captions.csv")
    index.thresholds["copy"] = 0.99
    index.save("i")
    return tmp_path


def test_the_page_plays_clusters_and_ranks_all_clips(command: Run) -> None:
    code, out, err = command("index", "duplicates", "i", "-o", "d.html", "--manifest", "cleaned")
    assert code == 0, err
    assert lines(out)[-2:] == ["written: d.html", "written: cleaned"]
    page = Path("d.html").read_text("utf-8").partition("</style>")[2]
    assert "<h1>1 cluster of duplicates, 2 clips in it</h1>" in page
    assert page.count("<audio") == 2
    assert "2 clips, the same sound" in page
    assert "a &lt;b&gt;tune&lt;/b&gt;" in page
    assert "3 of 5 clips have a caption that no other clip has" in page
    order = [part.partition("<")[0] for part in page.split('<th scope="row">')[1:]]
    assert order == ["1.wav", "2.wav", "0.wav", "3.wav", "4.wav"]
    assert "Not looked for." in page
    assert "64 times as often as others 88\N{NO-BREAK SPACE}% of 42" in page
    evidence = Path(__file__).parents[2] / "docs/evidence/fine-tuning.md"
    assert "| 2,000 | .88 [.74, .96] | .20 [.03, .56] | .10 [.00, .45] |" in evidence.read_text(
        "utf-8"
    )
    assert sorted(path.name for path in Path("cleaned").iterdir()) == [
        "anechoic_metadata.py", "clips.csv", "dataset_config.json", "metadata.csv"
    ]  # fmt: skip


def test_melodies_are_compared_once_the_detector_is_calibrated(command: Run, here: Path) -> None:
    asked = ("index", "duplicates", "i", "-o", "d.html", "--melody")
    code, _, err = command(*asked)
    assert code == 2
    assert "no calibration of 'transposed'" in err
    folder_of(here / "held", **{f"h{i}": tune(400 + i) for i in range(19)})
    calibrate = ("calibrate", "held", "--index", "i", "--fpr", "0.05", "--detector", "transposed")
    assert command(*calibrate)[0] == 0
    assert command(*asked)[0] == 0
    assert "Not looked for." not in Path("d.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--melody"], "'--melody' is shown on the page; name it with '-o PAGE.html'"),
        (["-o", "d.txt"], "expected a page that ends in .html after '-o', got 'd.txt'"),
        (["--manifest", "clips"], "'clips' exists already"),
    ],
)
def test_bad_output_is_refused(command: Run, arguments: list[str], message: str) -> None:
    code, _, err = command("index", "duplicates", "i", *arguments)
    assert (code, message in err) == (2, True)
