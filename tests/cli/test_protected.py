"""`anechoic generate --on-copy`: nothing is written that was not verified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.commands import Run, lines, work_in_copy
from support.model_folder import audible_pipe, save
from support.pipelines import CAPTIONS
from support.sounds import RATE
from torch import Tensor

from anechoic import TrainingIndex, audio, embedder
from anechoic.certificate import read
from anechoic.diffusers import fingerprint
from anechoic.index.clips import Sound
from anechoic.protection.policy import seed_of_attempt

PROMPT, OTHER = CAPTIONS[:2]
OPEN = ("--set", "lambda_min=-1", "--set", "lambda_max=-1")  # AMG's gate, at any similarity


def plainly(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    settings = {"num_inference_steps": 6, "guidance_scale": 7.0}
    return audible_pipe()(PROMPT, generator=generator, **settings).audios[0]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index holds what the plain pipeline makes of `PROMPT` under the seeds 0 and the next."""
    folder = save(tmp_path_factory.mktemp("shared"), copy=0.9)
    noise = torch.Generator().manual_seed(0)
    sounds = [plainly(0), plainly(seed_of_attempt(0, 1)), 0.3 * torch.randn(2, 64, generator=noise)]
    clips = [Sound(f"{i}.wav", PROMPT, wav, RATE) for i, wav in enumerate(sounds)]
    for name, limits in (("i", {"copy": 0.9995}), ("unjudged", {})):
        made = TrainingIndex.build(
            clips, embedder("magmel"), thresholds=limits, model=fingerprint(audible_pipe())
        )
        made.save(folder / name, overwrite=True)
    return folder


USUAL = ("--model", "model", "--steps", "6", "--device", "cpu", "-o", "out.wav")


@pytest.fixture
def run(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Run) -> Run:
    """Run `anechoic generate` on the tiny model, plainly; of an option given twice, the last
    holds."""
    work_in_copy(shared, tmp_path, monkeypatch)

    def start(*arguments: str) -> tuple[int, str, str]:
        index = () if "--index" in arguments else ("--index", "i")
        return command("generate", *USUAL, *index, "--guard", "cfg", *arguments)

    return start


def written() -> list[str]:
    inputs = ("i", "model", "unjudged")
    return sorted(path.name for path in Path.cwd().iterdir() if path.name not in inputs)


def test_a_copy_is_made_again_and_only_what_was_verified_is_written(run: Run) -> None:
    code, out, _ = run(PROMPT, OTHER, "--on-copy", "retry:2,refuse")
    assert (code, written()) == (0, ["out-1.wav", "out-2.wav"])
    said = lines(out)
    assert said[:2] == ["out-1.wav: regenerated", "out-2.wav: released"]
    rows = [row for row in said if row.startswith("out-1.wav ")]
    assert [" ".join(row.split()[1:3]) for row in rows] == ["1 first", "2 retry", "3 retry"]
    assert ["COPY" in row for row in rows] == [True, True, False]
    assert said[-1].startswith("No output above the limit leaves, under these detectors")


def test_a_refused_copy_leaves_no_file_and_exit_code_1(run: Run) -> None:
    code, out, _ = run(
        PROMPT, OTHER, "--retries", "1", "--log", "log.jsonl", "--hits", "hits.jsonl"
    )
    assert (code, written()) == (1, ["hits.jsonl", "log.jsonl", "out-2.wav"])
    assert lines(out)[0] == (
        "out-1.wav: NOTHING WRITTEN, refused: 2 of 2 attempts were copies, and none may leave"
    )
    logged = [json.loads(line) for line in Path("log.jsonl").read_text().splitlines()]
    assert [one["verdict"] for one in logged] == ["copy", "copy", "no copy"]
    assert (
        Path("hits.jsonl").read_text().splitlines()
        == (Path("log.jsonl").read_text().splitlines()[:2])
    )


def test_json_has_every_attempt(run: Run) -> None:
    code, out, _ = run(PROMPT, "--on-copy", "refuse", "--json")
    told = json.loads(out)
    assert (code, told["model"], told["policy"]) == (1, "model", ["first", "refuse"])
    (sound,) = told["sounds"]
    assert (sound["verdict"], sound["file"]) == ("refused", None)
    (attempt,) = sound["attempts"]
    (detector,) = attempt["detectors"]
    assert (attempt["seed"], detector["verdict"], detector["limit"]) == (0, "copy", 0.9995)


def test_the_guard_guards_every_attempt(run: Run) -> None:
    code, out, _ = run(PROMPT, "--guard", "amg", *OPEN, "--on-copy", "guard,refuse", "--json")
    (sound,) = json.loads(out)["sounds"]
    assert (code, sound["verdict"]) == (0, "released")
    assert [one["guard"] for one in sound["attempts"]] == ["AntiMemorization"]


def test_what_cannot_be_judged_is_written_only_by_name(run: Run) -> None:
    unjudged = ("--index", "unjudged", "--on-copy", "refuse")
    code, out, _ = run(PROMPT, *unjudged)
    assert (code, written()) == (3, [])
    assert lines(out)[0].startswith("out.wav: NOTHING WRITTEN, not judged: index 'unjudged' has")
    code, out, _ = run(PROMPT, *unjudged, "--allow-unjudged")
    assert (code, written()) == (3, ["out.wav"])
    assert lines(out)[0].startswith("out.wav: not judged: ")


def test_a_released_file_has_its_certificate(run: Run) -> None:
    code, _, _ = run(PROMPT, "--retries", "2", "--certify", "--log-prompts", "hash")
    assert (code, written()) == (0, ["out.wav", "out.wav.anechoic.json"])
    certificate = read("out.wav.anechoic.json")
    assert certificate.intact
    about = certificate.provenance
    assert (about.seed, about.attempts) == (seed_of_attempt(0, 2), 3)
    assert (about.prompt.kept, about.guard) == ("hashed", None)
    assert about.model == fingerprint(audible_pipe())
    assert certificate.file.samples_sha256
    assert audio.read("out.wav")[0].shape == (2, 64)
    code, _, err = run(PROMPT, "--certify", "--overwrite", "--on-copy", "refuse")
    assert (code, err.count("error:"), written()) == (
        1,
        0,
        ["out.wav", "out.wav.anechoic.json"],
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--on-copy", "again"), "expected steps among retry, guard, stronger"),
        (("--on-copy", "raise"), "'raise' is for Python; here 'refuse' ends with exit code 1"),
        (("--on-copy", "refuse", "--retries", "2"), "'--retries' needs a 'retry' without a count"),
        (("--log-prompts", "never"), "'--log-prompts' is one of clear, hash, omit, got 'never'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(
    run: Run, words: tuple[str, ...], sentence: str
) -> None:
    code, out, err = run(PROMPT, *words)
    assert (code, out, written()) == (2, "", [])
    assert err.startswith(f"error: {sentence}")
    assert err.count("\n") == 1


def test_nothing_is_verified_without_an_index(run: Run, command: Run) -> None:
    code, _, err = command("generate", PROMPT, *USUAL, "--guard", "cfg", "--retries", "1")
    assert (code, written()) == (2, [])
    assert err.startswith("error: what is written only if it is verified is compared with an index")
