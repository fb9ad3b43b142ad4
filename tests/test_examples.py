"""The scripts that stand beside the package run as they are, and say what they do."""

from __future__ import annotations

import json
import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from anechoic_lab.demo import assets
from anechoic_lab.demo.corpus import SAMPLE_RATE

from anechoic import TrainingIndex, audio, cli, embedder
from anechoic.diffusers import lora
from anechoic.diffusers.loading import load_pipeline
from anechoic.diffusers.lora_files import read_adapter
from anechoic.training import CleanedSet

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples/stable_audio_open.py"
AMG = "amg, despecification"  # a method that listens, without the gradient that takes long


def run(script: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    runpy.run_path(str(script), run_name="__main__")


def test_the_example_goes_from_weights_to_guarded_sound_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not assets.SHIPPED.is_dir():
        pytest.skip("the demo's model is not in this tree")
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("ambient choir\n")
    asked = ("--model", "demo", "--index", "demo", "--prompts", "prompts.txt")
    run(EXAMPLE, monkeypatch, *asked, "--steps", "4", "--dtype", "float32", "--output", "out")
    told = capsys.readouterr().out
    for guard in ("none", "amg", "static"):
        assert f"\n  {guard}: " in told
    assert "AMG-audio's code, lambda 0.4 to 0.5: 0.209 (60 clusters); 0.087" in told
    assert told.endswith("report: out/report/report.html\n")
    assert Path("out/report/report.html").is_file()
    assert len(json.loads(Path("out/report/report.json").read_text())) > 0


def test_the_example_is_short_and_its_commands_are_understood() -> None:
    lines = EXAMPLE.read_text().splitlines()
    assert len(lines) <= 90
    written = [line.strip() for line in lines if line.strip().startswith("anechoic ")]
    assert len(written) == 2
    for line in written:
        command, rest = cli.application(), shlex.split(line)[1:]
        while rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest.pop(0)]
        command.make_context(line, rest)


@pytest.mark.slow
def test_a_lora_is_trained_on_a_folder_of_tracks_under_a_monitor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft", reason="pip install peft, which the extra 'dev' has")
    if not assets.SHIPPED.is_dir():
        pytest.skip("the demo's model is not in this tree")
    monkeypatch.chdir(tmp_path)
    known, sounds = assets.training_set()
    rows = [i for i, clip in enumerate(known) if clip.kind == "note"][:9:3]
    lines = ["file_name,caption"]
    for row in rows:
        audio.write(Path(f"{row}.flac"), sounds[row][None], SAMPLE_RATE)
        lines.append(f"{row}.flac,{known[row].caption}")
    Path("metadata.csv").write_text("\n".join(lines), "utf-8")
    index = TrainingIndex.build(".", embedder("magmel"), captions="metadata.csv")
    index.thresholds["copy"] = 0.99
    index.save("i")
    CleanedSet.of(index, []).write(Path("cleaned"))
    asked = ("--model", "demo", "--clips", ".", "--index", "i", "--cleaned", "cleaned")
    small = ("--steps", "2", "--every", "1", "--batch", "2", "--rank", "2")
    run(ROOT / "examples/fine_tune_lora.py", monkeypatch, *asked, *small, "-o", "lora")
    assert (tmp_path / "lora/monitor/monitor.jsonl").is_file()
    adapter = read_adapter(tmp_path / "lora/step-00002")
    pipe = load_pipeline("demo", "cpu")
    assert lora.apply(pipe, tmp_path / "lora/step-00002").fingerprint == adapter.fingerprint


@pytest.mark.slow
def test_the_benchmark_of_the_pipelines_size_runs_on_tiny_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, output = ROOT / "benchmarks/pipeline_size.py", tmp_path / "rows.json"
    run(script, monkeypatch, "--tiny", "--only", "static", AMG, "--output", str(output))
    told = json.loads(output.read_text())
    assert [(row["method"], row["batch"]) for row in told["rows"]] == [
        (name, batch) for batch in (1, 2) for name in ("no guard", AMG, "static")
    ]
    assert all(row["evaluation_s"] > 0 and not row["refused"] for row in told["rows"])
    assert f"| {AMG} | 2 | " in capsys.readouterr().out


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_on_tiny_sizes(tmp_path: Path) -> None:
    script, output = ROOT / "benchmarks/gpu.sh", tmp_path / "gpu.json"
    here = {"TINY": "1", "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([str(script), str(output)], env=os.environ | here, check=True)
    told = json.loads(output.read_text())
    names = {row["method"] for row in told["methods"]}
    assert {"no guard", "cfg", "amg", "static, opposite"} <= names
    assert {row["batch"] for row in told["methods"]} == {1, 2}
    assert {row["network"] for row in told["compiled"]} == {"compiled", "CUDA graphs"}
    assert all(row["evaluation_s"] > 0 for row in told["methods"] + told["compiled"])
    assert told["embedding"]["windows_per_s"] > 0
    assert told["search"]["found"]


def test_without_a_gpu_its_script_says_so_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    with pytest.raises(SystemExit) as stopped:
        run(ROOT / "benchmarks/gpu.py", monkeypatch, "--out", str(tmp_path / "gpu.json"))
    assert stopped.value.code == 1
    assert capsys.readouterr().out.startswith("there is no GPU here")


def test_a_guard_is_slower_where_chance_would_not_make_it_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    names = runpy.run_path(str(ROOT / "benchmarks/guard.py"))
    is_slower = names["is_slower"]
    assert is_slower([1.2] * 7, 1.0)
    assert not is_slower([1.2] * 5 + [1.0] * 2, 1.0)
    assert not is_slower([1.05] * 7, 1.0)
    recorded = json.loads(names["BASELINE"].read_text())
    rows = {f"{row.guard}, {row.prompt}" for row in names["targets"]()}
    assert recorded.keys() <= rows


@pytest.mark.slow
def test_the_guards_at_the_real_size_are_measured_by_what_they_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On tiny sizes: passes through the network, and where the sound is the pipeline's own."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    names = runpy.run_path(str(ROOT / "benchmarks/real_size.py"))
    rows = [names["measure"](guard, names["TINY"], 0.001) for guard in names["GUARDS"]]
    plain, cfg, shut, gate_shut, static, opposite, replaced, opened = rows
    assert {row.sha256 for row in (cfg, shut, gate_shut)} == {plain.sha256}
    assert plain.sha256 not in {row.sha256 for row in (static, opposite, replaced, opened)}
    assert [row.passes for row in rows[:6]] == [6, 6, 6, 6, 4, 6]  # three steps of two halves
    assert replaced.passes >= 6
    assert opened.passes == 9  # the caption, too
    assert all(0 < row.network_s < row.seconds for row in rows)


def test_without_a_gpu_the_benchmark_says_so_and_stops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    run(ROOT / "benchmarks/pipeline_size.py", monkeypatch)
    assert capsys.readouterr().out.startswith("skipped: no GPU here")


@pytest.mark.slow
def test_the_memory_of_the_real_size_is_what_the_page_says() -> None:
    """In bfloat16 and for 10 s; the rest of the table is the same function's."""
    import torch

    names = runpy.run_path(str(ROOT / "benchmarks/pipeline_size.py"))
    page = (ROOT / "docs/how-to/stable-audio-open.md").read_text()
    counted = names["counted"](names["REAL"], torch.bfloat16, [10.0])
    assert len(counted) == 4
    for what, size in counted.items():
        assert f"\n| {what} | {size:#.3g} | " in page


def test_the_benchmark_has_stable_audio_opens_real_configuration() -> None:
    import torch

    names = runpy.run_path(str(ROOT / "benchmarks/pipeline_size.py"))
    pipe = names["make_pipeline"](names["REAL"], torch.device("meta"))
    network, codec = pipe.transformer.config, pipe.vae.config
    assert (network.num_layers, network.num_attention_heads, network.attention_head_dim) == (
        24, 24, 64,
    )  # fmt: skip
    assert (network.in_channels, network.sample_size, network.cross_attention_dim) == (
        64, 1024, 768,
    )  # fmt: skip
    assert (codec.decoder_channels, codec.channel_multiples) == (128, [1, 2, 4, 8, 16])
    assert (codec.downsampling_ratios, codec.sampling_rate) == ([2, 4, 4, 8, 8], 44100)
    assert sum(p.numel() for p in pipe.transformer.parameters()) == 1_056_939_136
    assert sum(p.numel() for p in pipe.text_encoder.parameters()) == 109_628_544  # T5-base's
    assert {p.dtype for p in pipe.transformer.parameters()} == {torch.bfloat16}
