"""`anechoic bench`, from the command to the table: on a tiny real pipeline, and on numbers."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from anechoic_lab.bench import BenchPrompt, Method, Request
from anechoic_lab.bench.pipeline import open_pipeline
from anechoic_lab.bench.prompts import PromptFile
from support.commands import Run
from support.model_folder import audible_pipe
from support.pipelines import CAPTIONS
from support.sounds import RATE, save_clips
from tokenizers.pre_tokenizers import ByteLevel
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, RobertaTokenizer

from anechoic import TrainingIndex, embedder, guard
from anechoic.errors import AnechoicError
from anechoic.guidance import ClassifierFree
from anechoic.index.clips import Sound

COPY = 0.9995  # of 64 samples, all sounds are alike
NUMBERS = "support.bench_task:make"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline, its training clips, two indexes of them, prompts, and a tiny CLAP."""
    folder = tmp_path_factory.mktemp("shared")
    pipe = audible_pipe()
    pipe.save_pretrained(folder / "model")
    noise = torch.Generator().manual_seed(0)
    clips = [0.3 * torch.randn(2, 64, generator=noise) for _ in CAPTIONS]
    # the second is what the model itself makes of the first prompt: a copy, and it is found
    clips[1] = generated(pipe, CAPTIONS[0], 0)
    loud = (clip / clip.abs().max() for clip in clips)
    save_clips(folder, loud, suffix="flac", caption=CAPTIONS)
    for name, source in (("i", "magmel"), ("j", "magmel:seconds=2.0")):
        TrainingIndex.build(
            folder / "clips",
            embedder(source),
            captions=folder / "captions.csv",
            thresholds={"copy": COPY},
        ).save(folder / name)
    (folder / "prompts.csv").write_text(
        "caption,group,split\n"
        f"{CAPTIONS[0]},memorized,report\n{CAPTIONS[1]},memorized,report\n"
        f"{CAPTIONS[2]},ordinary,report\n{CAPTIONS[3]},ordinary,tune\n"
    )
    save_clap(folder / "clap")
    return folder


def generated(pipe, caption: str, seed: int, scale: float = 7.0) -> torch.Tensor:
    """What the pipeline itself makes in three steps, [c, t]."""
    generator = torch.Generator().manual_seed(seed)
    arguments = {"num_inference_steps": 3, "guidance_scale": scale, "generator": generator}
    return pipe(caption, **arguments).audios[0]


def save_clap(folder: Path) -> None:
    torch.manual_seed(0)
    text = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 40}
    heard = {"patch_embeds_hidden_size": 8, "hidden_size": 64, "depths": [1, 1, 1, 1]}
    heard |= {"num_attention_heads": [1, 1, 2, 2], "initializer_factor": 10.0}
    config = ClapConfig(text_config=text, audio_config=heard, projection_dim=16)
    ClapModel(config).save_pretrained(folder)
    ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad").save_pretrained(folder)
    symbols = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
    vocabulary = {symbol: i for i, symbol in enumerate(symbols)}
    RobertaTokenizer(vocab=vocabulary, merges=[], model_max_length=38).save_pretrained(folder)


@pytest.fixture
def run(tmp_path: Path, command: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `anechoic bench` in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return partial(command, "bench")


@pytest.fixture(scope="module")
def task(shared: Path):
    return open_pipeline(
        str(shared / "model"), str(shared / "i"), str(shared / "prompts.csv"),
        judges=(str(shared / "j"),), adherence=f"clap:{shared / 'clap'}",
    )  # fmt: skip


PLAN = """
seeds = 2
batch = 2
steps = 3
[[methods]]
name = "none"
label = "unguarded"
[[methods]]
name = "amg"
guard = "amg"
settings = { c1 = 4.0, c2 = 3.0, c3 = 0.0, lambda_min = -1.0, lambda_max = -1.0, gradient = "x0" }
[[methods]]
name = "static"
guard = "static"
settings = { at = 0.5 }
"""


# ------------------------------------------------------------------------------------ a pipeline


def test_a_pipeline_is_benched_from_the_command_line(shared: Path, run: Run) -> None:
    Path("plan.toml").write_text(PLAN)
    asked = (
        "plan.toml", "--model", str(shared / "model"), "--index", str(shared / "i"),
        "--prompts", str(shared / "prompts.csv"), "--device", "cpu",
    )  # fmt: skip
    code, out, err = run(*asked, "-o", "t.json")
    assert (code, "14/14" in err) == (0, True)  # 3 methods, 2 seeds, 2 batches, and 2
    table = json.loads(Path("t.json").read_text())
    assert json.loads(run(*asked, "--json")[1])["lines"] == table["lines"]
    lines = {line["method"]: line["figures"] for line in table["lines"]}
    assert set(lines) == {"none", "amg", "static", "training set"}
    evaluations = {name: lines[name]["evaluations"]["value"] for name in ("none", "amg", "static")}
    # an open gate asks the network once more, under the nearest clip's caption
    assert evaluations == {"none": 6, "amg": 9, "static": 4}  # two of four before it are one half
    assert lines["none"]["similarity"]["clips"] == 4
    assert "adherence_memorized" not in lines["none"]
    assert table["about"]["prompts"] == "all: 2 memorized, 1 ordinary"
    for fact in (
        "adherence, memorized",
        "not measured",
        "unguarded",
        "similarity over 0.9995",
    ):
        assert fact in out


def test_a_pipelines_generations_are_heard_beside_the_clips_they_are_most_like(task) -> None:
    prompts = task.prompts("all", "report")
    pairs = task.pairs(Request("all", prompts, 0, Method("none", "n"), 3))
    known = {clip.id for clip in task.judges.guide.index.clips}
    assert len(pairs) == len(prompts)
    for pair in pairs:
        assert pair.id in known
        assert pair.made.shape[-1] == pair.clip.shape[-1]
    made, clip = (wav / wav.abs().max() for wav in (pairs[0].made, pairs[0].clip))
    torch.testing.assert_close(made, clip, atol=1e-3, rtol=0)  # what the pipeline makes is the clip


def test_the_plain_pipeline_is_benched_as_it_is(shared: Path, task) -> None:
    prompts = task.prompts("all", "report")
    assert prompts[0] == BenchPrompt(CAPTIONS[0], CAPTIONS[0], "memorized")
    rows = task.generate(Request("all", prompts, 0, Method("none", "n"), 3))
    again = task.generate(Request("all", prompts[1:2], 0, Method("none", "n"), 3))
    first = rows[0]
    # its own clip is in the training set, under another caption
    assert first.similarity == pytest.approx(1.0, abs=1e-3)
    assert first.copied
    assert first.scores == {"magmel": pytest.approx(1.0, abs=1e-3),
                            "waveform": pytest.approx(1.0, abs=1e-3)}  # fmt: skip
    assert not rows[1].copied
    assert rows[1].scores["waveform"] < first.scores["waveform"]
    assert first.evaluations == 6  # two halves, three steps
    assert again[0].similarity == pytest.approx(rows[1].similarity, abs=1e-5)
    wav = generated(audible_pipe(), CAPTIONS[1], 0)[None]
    clap = embedder(f"clap:{shared / 'clap'}")
    kept = float((clap(wav, RATE) * clap.text([CAPTIONS[1]])).sum())
    assert rows[1].adherence == pytest.approx(kept, abs=1e-5)
    assert rows[1].quality == pytest.approx(embedder("magmel")(wav, RATE)[0].tolist(), abs=1e-5)


def test_a_method_without_settings_gets_the_scale_of_the_pipeline(shared: Path, task) -> None:
    assert task.guidance("all", Method("c", "c", "cfg")) == ClassifierFree(7.0)
    plain, guarded = (
        task.generate(Request("all", task.prompts("all", "report")[:1], 1, method, 3))[0]
        for method in (Method("none", "n"), Method("c", "c", "cfg"))
    )
    assert guarded.quality == plain.quality
    assert guarded.evaluations == plain.evaluations


def test_passes_of_the_guard_are_those_its_trace_tells(shared: Path, task) -> None:
    method = Method("a", "a", "amg", {"lambda_min": -1, "lambda_max": -1, "c3": 0})
    prompts = task.prompts("all", "report")[:2]
    row = task.generate(Request("all", prompts, 0, method, 3))[0]
    guidance = task.guidance("all", method)
    with guard(task.pipe, guidance) as trace:
        generated(task.pipe, CAPTIONS[0], 0)
    assert row.evaluations == sum(record.passes for record in trace.records)


def test_the_reference_is_the_training_set_or_a_folder(shared: Path, task) -> None:
    assert np.shape(task.reference("all")) == (4, 2048)
    held = open_pipeline(
        str(shared / "model"), str(shared / "i"), str(shared / "prompts.csv"),
        reference=str(shared / "clips"), quality=f"clap:{shared / 'clap'}",
    )  # fmt: skip
    assert np.shape(held.reference("all")) == (4, 16)
    assert held.fingerprint("all") != task.fingerprint("all")


def test_the_background_compares_training_clips(shared: Path, task) -> None:
    index = TrainingIndex.load(shared / "i")
    cosines = index.vectors(torch.arange(4)) @ index.vectors(torch.arange(4)).T
    cosines.fill_diagonal_(-1)
    assert task.baseline("all") == pytest.approx(cosines.amax(1).tolist(), abs=1e-5)


def test_another_weight_or_threshold_is_another_task(shared: Path, task) -> None:
    given = [str(shared / name) for name in ("model", "i", "prompts.csv")]
    own = open_pipeline(*given).fingerprint("all")
    assert open_pipeline(*given).fingerprint("all") == own
    assert open_pipeline(*given, threshold=0.5).fingerprint("all") != own
    assert task.fingerprint("all") != own
    trained = open_pipeline(*given)
    with torch.no_grad():
        next(trained.pipe.vae.parameters()).view(-1)[0] += 1e-3
    assert trained.fingerprint("all") != own


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"judges": ("i",)}, "which is in use already"),
        ({"judges": ("other",)}, "has other clips than"),
        ({"index": "bare"}, "has no calibration for copies"),
        ({"index": "foreign"}, "holds the training clips of model 'another'"),
        ({"adherence": "magmel"}, "'magmel' embeds only sound"),
        ({"reference": "model"}, "expected two sound files or more"),
        ({"prompts": "absent.csv"}, "does not exist; check the path"),
        ({"prompts": "captions.txt"}, "expected prompts in a .csv, .jsonl or .parquet file"),
        ({"prompts": "empty.csv"}, "it has no lines"),
        ({"prompts": "nameless.csv"}, "expected a caption in each line, but none in line 1"),
        ({"prompts": "broken.jsonl"}, "line 1 is not JSON"),
    ],
)
def test_what_a_pipeline_cannot_be_judged_by_is_refused(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change, sentence
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model", "i", "prompts.csv"):
        Path(name).symlink_to(shared / name)
    sound = [Sound(str(i), "x", torch.randn(1, 64), RATE) for i in range(2)]
    TrainingIndex.build(sound, embedder("magmel:seconds=2.0")).save("other")
    TrainingIndex.build(sound, embedder("magmel")).save("bare")
    TrainingIndex.build(sound, embedder("magmel"), model="another", thresholds={"copy": 0.9}).save(
        "foreign"
    )
    Path("captions.txt").write_text("caption\na")
    Path("empty.csv").write_text("")
    Path("nameless.csv").write_text("text\na")
    Path("broken.jsonl").write_text("{")
    given = {"model": "model", "index": "i", "prompts": "prompts.csv", **change}
    with pytest.raises(AnechoicError) as error:
        open_pipeline(**given).about()
    assert sentence in str(error.value)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_prompts_are_read_in_each_format(tmp_path: Path, suffix: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    rows = [
        {"caption": 'rain, "loud"', "group": "memorized", "split": "tune", "extra": 1},
        {"caption": "42", "id": "x", "scenario": "short", "group": None},
    ]
    path = tmp_path / f"p{suffix}"
    if suffix == ".csv":
        path.write_text('\ufeffcaption,group,split,id,scenario,extra\n"rain, ""loud""",memorized,'
                        'tune,,,1\n42,,,x,short,\n', "utf-8")  # fmt: skip
    elif suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        whole = [dict.fromkeys(("id", "scenario", "split")) | row for row in rows]
        pa.parquet.write_table(pa.Table.from_pylist(whole), path)
    read = PromptFile(path)
    assert read.scenarios == ["all", "short"]
    (rain,) = read.of("all", "tune")
    assert (rain["caption"], rain["group"], read.of("all", "report")) == (
        'rain, "loud"', "memorized", []
    )  # fmt: skip
    (number,) = read.of("short", "report")
    assert (number["id"], number["caption"], number["group"]) == ("x", "42", "")


# --------------------------------------------------------------------------------------- numbers


def test_the_table_and_the_plot_are_written_and_printed(run: Run) -> None:
    Path("p.toml").write_text(
        'seeds = 2\n[[methods]]\nname = "none"\n'
        '[[methods]]\nname = "push"\nguard = "push"\nvary = { strength = [0.5, 1.0] }\n'
    )
    code, out, err = run(
        "p.toml", "--model", NUMBERS, "--scenarios", "large", "--jobs", "2", "-o", "t.md",
        "-o", "t.csv", "--plot", "p.png",
    )  # fmt: skip
    assert (code, err.count("\n")) == (0, 1)  # nothing but the bar
    assert "1. push: area 0." in out
    assert ", processes 2 x " in out
    assert Path("t.md").read_text().count("| push, strength") == 2
    assert Path("p.png").stat().st_size > 10_000
    assert Path("t.csv").exists()


def test_a_listening_test_of_what_has_no_sound_is_refused_before_anything_is_run(run: Run) -> None:
    words = ("--model", NUMBERS, "--scenarios", "large", "--listening", "l.html")
    code, _, err = run(*words)
    assert code == 2
    assert "a listening test needs sound, and the task 'points on a sphere' has no" in err
    assert not Path("l.html").exists()
    assert not Path("bench-work").exists()
    assert run(*words[:-1], "l.txt")[0] == 2


def test_presets_are_listed(run: Run) -> None:
    code, out, _ = run("--list")
    assert code == 0
    assert "amg-ablation" in out
    assert "each pair" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--preset", "absent"], "preset 'absent' does not exist"),
        (["absent.toml"], "plan 'absent.toml' does not exist"),
        (["methods"], "for a preset, use '--preset methods'"),
        (["p.toml", "--preset", "methods"], "give one"),
        (["--methods", "absent"], "has no method 'absent'"),
        (["-o", "here.md"], "'here.md' exists already"),
        (["-o", "t.txt"], "does not end in a known format"),
        (["--plot", "p.pdf"], "does not end in a known format"),
        (["--model", "folder"], "give '--index' and '--prompts'"),
        (["--option", "log"], "expected an option as NAME=VALUE, got 'log'"),
        (["--option", "color=red"], "do not fit (got an unexpected keyword argument 'color')"),
        (["--index", "i"], "do not fit (got an unexpected keyword argument 'index')"),
    ],
)
def test_what_cannot_be_used_is_refused_before_any_cell(
    run: Run, words: list[str], sentence: str
) -> None:
    Path("here.md").write_text("mine")
    code, _, err = run("--model", NUMBERS, *words)
    assert (code, sentence in err) == (2, True), err
    assert Path("here.md").read_text() == "mine"
    assert not list(Path("bench-work").glob("results/*"))


def test_a_failed_cell_ends_with_two_and_keeps_the_others(run: Run) -> None:
    Path("p.toml").write_text(
        '[[methods]]\nname = "none"\n[[methods]]\nname = "bad"\nguard = "fail"\n'
    )
    code, _, err = run("p.toml", "--model", NUMBERS, "--option", "delay_s=0.01")
    assert (code, "error: method 'bad', scenario 'plain', seed 0" in err) == (2, True)
    assert list(Path("bench-work/results").glob("*.json"))
