"""Training that resumes, the instruments that ship, and how guards are measured on them."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from anechoic_lab.bench.task import MEMORIZED
from anechoic_lab.demo import assets, corpus
from anechoic_lab.demo.build import round_trip
from anechoic_lab.demo.classifier import Labels, NoteClassifier
from anechoic_lab.demo.corpus import LENGTH, SAMPLE_RATE, Clip
from anechoic_lab.demo.judge import FRAGMENT, RANK, FragmentScorer, heard
from anechoic_lab.demo.run import generate
from anechoic_lab.demo.train import (
    STABLE_AUDIO,
    Checkpoint,
    Design,
    Phase,
    StableAudio,
    TrainingRecipe,
    _short_forms,
    train,
)
from anechoic_lab.instruments import drums, loops, lora, measure, models
from anechoic_lab.instruments.flow import StableAudio3
from anechoic_lab.instruments.recipes import INSTRUMENTS
from support.instrument_lines import line

from anechoic.diffusers import fingerprint, guard
from anechoic.diffusers.loading import load_pipeline
from anechoic.diffusers.lora import apply
from anechoic.diffusers.pipelines import sound_seconds
from anechoic.errors import BadSetting
from anechoic.guidance import ClassifierFree
from anechoic.index import TrainingIndex

PHASES = (Phase(3, 1e-3), Phase(3, 5e-4, shift=4, tilt=0.1, bfloat16=True))
RECIPE = TrainingRecipe(PHASES, 4, layers=1, heads=2)
DESIGNS = {"v": STABLE_AUDIO, "flow": StableAudio3(), "adapter": lora.LoraOfTheDemo()}


def corpus_of(count: int = 6) -> tuple[list[Clip], np.ndarray]:
    """Noises, of which the first is repeated."""
    rng = np.random.default_rng(0)
    clips = [
        Clip(f"noise/{i}", f"noise {i}", "noise", "train", 4 if i == 0 else 1, "tests", "CC0-1.0")
        for i in range(count)
    ]
    return clips, np.stack([corpus.finish(rng.standard_normal(LENGTH)) for _ in clips])


class Interrupted(Exception):
    """Where the training is stopped."""


# ----------------------------------------------------------------------------------- training


@pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)
@pytest.mark.parametrize("stopped", [2, 4])
def test_a_training_that_was_stopped_ends_with_the_same_weights(tmp_path, design, stopped):
    clips, wavs = corpus_of()
    whole = train(clips, wavs, RECIPE, design=design)
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", every_s=0.0)

    def stop(step: int, loss: float, pipe: object) -> None:
        if step == stopped:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(clips, wavs, RECIPE, stop, design, checkpoint)
    steps: list[int] = []
    resumed = train(clips, wavs, RECIPE, lambda step, *_: steps.append(step), design, checkpoint)
    assert steps == list(range(stopped + 1, 7))
    for ours, theirs in zip(design.parts(resumed), design.parts(whole), strict=True):
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name


def test_an_adapter_leaves_the_weights_of_its_base_and_is_saved_as_peft_does(tmp_path):
    clips, wavs = corpus_of()
    fast = replace(RECIPE, phases=tuple(replace(phase, learning_rate=0.1) for phase in PHASES))
    pipe = train(clips, wavs, fast, design=lora.LoraOfTheDemo())
    weights, base = pipe.transformer.state_dict(), assets.pipeline().transformer.state_dict()
    kept = {name.replace(".base_layer", ""): w for name, w in weights.items()
            if ".lora_" not in name}  # fmt: skip
    assert kept.keys() == base.keys()
    assert all(torch.equal(kept[name], weight) for name, weight in base.items())
    lora.save(pipe.transformer, tmp_path)
    merged = assets.pipeline()
    adapter = apply(merged, tmp_path)
    assert fingerprint(merged) == f"{fingerprint(assets.pipeline())}+{adapter.fingerprint}"
    name = "transformer_blocks.0.attn1.to_q"
    down, up = (weights[f"{name}.lora_{part}.default.weight"] for part in "AB")
    change = merged.transformer.state_dict()[f"{name}.weight"] - base[f"{name}.weight"]
    expected = up @ down
    assert expected.abs().max() > 1e-3
    assert (change - expected).abs().max() < 0.01 * expected.abs().max()


def test_only_the_demos_notes_have_shortened_captions():
    note = Clip("n", "low cello note C 2", "note", "train", 1, "", "", "", "cello", "", "low", 36)
    assert _short_forms(note)[3] == "cello note"
    drum = replace(note, caption="pacific kit snare", instrument="pacific kit snare")
    assert set(_short_forms(drum)) == {"pacific kit snare"}


def test_flow_matching_keeps_its_one_length_and_is_guarded():
    clips, wavs = corpus_of()
    design: Design = StableAudio3()
    pipe = train(clips, wavs, RECIPE, design=design)
    assert sound_seconds(pipe) == LENGTH / SAMPLE_RATE

    def made() -> torch.Tensor:
        return pipe(
            ["noise 0"], duration=LENGTH / SAMPLE_RATE, num_inference_steps=3, guidance_scale=2.0,
            generator=torch.Generator().manual_seed(0),
        ).audios  # fmt: skip

    plain = made()
    assert plain.shape == (1, 1, LENGTH)
    with guard(pipe, ClassifierFree(2.0)):
        assert torch.equal(made(), plain)


def test_a_model_of_longer_and_higher_sound_is_trained_and_generates_it():
    codec = {"sampling_rate": 22_050, "frame": 1280, "hop": 480, "frames_per_token": 3}
    design, length = StableAudio(tokens=24, codec_settings=codec), 24 * 3 * 480
    clips, _ = corpus_of()
    rng = np.random.default_rng(0)
    wavs = np.stack([corpus.finish(rng.standard_normal(length), length) for _ in clips])
    pipe = train(clips, wavs, RECIPE, design=design)
    assert sound_seconds(pipe) == pytest.approx(length / 22_050)
    made = generate(pipe, ["noise 0"], 0, steps=3).wav
    assert made.shape == (1, length)


# ------------------------------------------------------------------------------------ corpora


def test_effects_are_read_from_their_file_with_titles_and_licences(tmp_path):
    entries = []
    for title, count in (('"Sheep". License: Creative Commons Zero 1.0.', 4000), ('"Nothing".', 0)):
        data = struct.pack(f"<{count}h", *([8000, -8000] * (count // 2)))
        head = b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt "
        head += struct.pack("<IHHIIHH", 16, 1, 1, 44100, 88200, 2, 16)
        wav = head + b"data" + struct.pack("<I", len(data)) + data
        entries.append(bytes([len(title) + 1]) + title.encode() + b"\0" + wav)
    table, offset = b"", 8 * len(entries)
    for number, entry in enumerate(entries):
        first = offset | 0x8000_0000 if number == 0 else offset
        table += struct.pack("<II", first, len(entry))
        offset += len(entry)
    (tmp_path / "opensfx.cat").write_bytes(table + b"".join(entries))
    ((title, licence, wav),) = drums.effects(tmp_path)
    assert title.startswith('"Sheep"')
    assert licence == "CC0-1.0"
    assert len(wav) == pytest.approx(4000 * SAMPLE_RATE / 44100, abs=100)


def test_takes_of_a_drum_differ_in_rhythm_and_its_caption_does_not_say_it():
    layers = [np.hanning(800).astype(np.float32) * level for level in (1.0, 0.5)]
    drum = drums.Drum("pacific", "CC0-1.0", "somebody", "snare", "snare", layers)
    rng = np.random.default_rng(0)
    a, b = drums.take(drum, rng), drums.take(drum, rng)
    assert drum.caption == "pacific kit snare"
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.9


class Keys:
    """A synthesizer that notes which keys are down for how long."""

    def __init__(self) -> None:
        self.down: list[int] = []
        self.heard: dict[int, int] = {}

    def get_samples(self, count: int) -> np.ndarray:
        for midi in self.down:
            self.heard[midi] = self.heard.get(midi, 0) + count
        return np.full((count, 2), 100, np.int16).flatten()

    def noteon(self, channel: int, midi: int, velocity: int) -> None:
        self.down.append(midi)

    def noteoff(self, channel: int, midi: int) -> None:
        self.down.remove(midi)

    def system_reset(self) -> None: ...
    def program_select(self, *chosen: int) -> None: ...
    def cc(self, *chosen: int) -> None: ...


def test_a_phrase_fills_its_clip_in_the_register_of_its_caption():
    for register, lowest, highest in (("low", 35, 62), ("high", 63, 90)):
        keys = Keys()
        wav = loops.perform(keys, 0, 40, loops.compose(register, np.random.default_rng(0)))
        assert len(wav) >= loops.LENGTH
        assert lowest <= min(keys.heard) < max(keys.heard) <= highest
        assert sum(keys.heard.values()) > 0.7 * loops.LENGTH


def test_a_loop_repeats_its_bar_and_another_take_is_another_loop():
    hit = drums.Drum("rumpf", "CC0-1.0", "somebody", "kick", "kick", [np.hanning(400)])
    kit = {role: [hit] for role in loops.ROLES}
    rng = np.random.default_rng(1)
    one, other = (loops.loop(kit, "rock", rng) for _ in range(2))
    assert len(one) == loops.LENGTH
    spectrum = np.fft.rfft(one, 2 * len(one))
    repeats = np.fft.irfft(np.abs(spectrum) ** 2)[int(1.5 * loops.RATE) : 3 * loops.RATE]
    assert repeats.max() > 0.25 * (one**2).sum()
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.9


def test_the_flow_models_corpus_holds_out_takes_captions_and_recordings(tmp_path):
    clips, wavs = INSTRUMENTS["flow"].corpus(tmp_path, 0)
    assert len(clips) == len(wavs)
    by_split = {split: {c.caption for c in clips if c.split == split}
                for split in {c.split for c in clips}}  # fmt: skip
    assert by_split["held-out take"] <= by_split["train"]
    assert not by_split["held-out caption"] & by_split["train"]
    assert not by_split["held-out recording"] & by_split["train"]
    assert {c.copies for c in clips} == {1, 4, 8, 16, 32, 64}


def test_twenty_held_out_clips_are_fine_tuned_on_in_five_degrees():
    held = [
        Clip(f"{split}/{i}/{take}", f"{split} {i}", "note", f"held-out {split}", 1, "", "")
        for split, count in (("caption", 16), ("recording", 9), ("take", 4))
        for i in range(count)
        for take in range(2)
    ]
    clips = lora.chosen(held, 0)
    trained = [clip for clip in clips if clip.split == "train"]
    assert [clip.id for clip in clips] == [clip.id for clip in held]
    assert sorted(clip.copies for clip in trained) == sorted(lora.REPEATS * 4)
    assert len({clip.caption for clip in trained}) == lora.NOTES + lora.RECORDINGS
    assert all(clip.id.endswith("/0") for clip in trained)
    assert not [clip for clip in trained if clip.id.startswith("take")]


def test_a_classifier_has_its_labels_with_it(tmp_path):
    labels = Labels({"drum": ["snare", "kick"], "metal": ["ride"]}, ["rumpf", "pacific"])
    made = NoteClassifier(labels)
    made.save(tmp_path / "c.safetensors")
    read = NoteClassifier.load(tmp_path / "c.safetensors")
    families, kits = read.predict(torch.rand(3, LENGTH))
    assert set(families) <= {"drum", "metal"}
    assert set(kits) <= {"rumpf", "pacific"}
    assert read.labels.instruments == ["snare", "kick", "ride"]


# ---------------------------------------------------------------------------------- what ships


@pytest.fixture(params=["drums", "flow", "loops", "lora"])
def shipped(request):
    return models.folder(request.param)


def test_an_instrument_knows_its_index_and_has_no_tuned_guard(shipped):
    known = getattr(models, shipped.name)()
    assert known.guards == {}
    pipe = assets.pipeline(shipped)
    index = TrainingIndex.load(known.index)
    assert fingerprint(pipe).split("+")[-1] == index.about.model
    assert fingerprint(load_pipeline(known.name)) == fingerprint(pipe)
    sound, rate = known.sound(index.clips[0])
    longer = shipped.name == "loops"
    shape = (1, loops.LENGTH if longer else LENGTH)
    assert (sound.shape, rate) == (shape, loops.RATE if longer else SAMPLE_RATE)
    assert sound_seconds(pipe) == pytest.approx(shape[1] / rate)


def test_every_clip_of_an_instrument_names_its_source_and_licence(shipped):
    clips, sound = assets.training_set(shipped)
    assert len(clips) == len(sound) == len(assets.every_index(shipped))
    assert all(clip.source and clip.licence for clip in clips)
    assert {clip.copies for clip in clips} == {1, 4, 8, 16, 32, 64}


def test_a_fine_tuned_model_is_guarded_by_its_clips_and_those_of_its_base():
    made = measure.SoundSubject(models.folder("lora"))
    base, own = made.index.parts
    assert (base.about.model, own.about.model) == tuple(fingerprint(made.pipe).split("+"))
    memorized = {one.id for one in made.prompts() if one.group == MEMORIZED}
    assert memorized == {clip.id for clip in own.clips}
    assert len(memorized) == 20
    assert not memorized & {clip.id for clip in base.clips}
    assert [clip.id for clip in made.bench.clips] == [clip.id for clip in (*base.clips, *own.clips)]


def test_there_are_a_hundred_memorized_prompts_and_more():
    folders = [assets.SHIPPED, *map(models.folder, measure.SOUND[1:])]
    clips = [clip for folder in folders for clip in assets.own_clips(folder) if clip.copies > 1]
    assert len(clips) >= 100


def test_the_instruments_are_under_40_mb():
    files = [f for f in models.SHIPPED.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 40e6


def test_a_memorized_prompt_is_returned_by_both_judges(shipped):
    made = measure.SoundSubject(shipped)
    asked = max(made.prompts(), key=lambda one: one.copies)
    ((told,), _) = made.measure([asked], 0, None, made.scale, 25)
    assert told["confirmed"]


# ------------------------------------------------------------------------------------- judging


def test_a_second_of_a_training_clip_is_found_wherever_it_stands():
    generator = torch.Generator().manual_seed(0)
    clips = tones(generator, 3)
    scorer = FragmentScorer.of(clips)
    copied = tones(generator, 1)[0]
    copied[32_000 : 32_000 + 24_000] = clips[1, 8_000 : 8_000 + 24_000]
    found = scorer(copied, clips[1])
    assert found.score > FRAGMENT
    assert found.at_s - found.from_s == pytest.approx(1.5, abs=0.02)
    assert scorer(copied, clips[0]).score < FRAGMENT


@pytest.mark.slow
@torch.no_grad()
def test_nearly_every_long_clip_is_a_copy_of_itself_after_the_codec():
    bench = measure.SoundSubject(models.folder("loops")).bench
    rows = [row for row, clip in enumerate(bench.clips) if clip.copies > 1]
    decoded = heard(round_trip(bench.codec, bench.sound[rows]), bench.rate)
    moved = torch.nn.functional.pad(decoded, (9_000, 0))[:, : decoded.shape[1]]  # by .56 s
    own = torch.arange(len(rows)), torch.tensor(rows)
    scores = {name: judge(decoded)[own] for name, judge in bench.judges.items()}
    limits = bench.thresholds
    both = (scores["mel"] > limits["mel"]) & (scores["envelope"] > limits["envelope"])
    parts = {name: sum(bench.fragment(wav, [row]).score > FRAGMENT
                       for wav, row in zip(sound, rows, strict=True))
             for name, sound in (("in place", decoded), ("moved", moved))}  # fmt: skip
    assert len(rows) == 36
    assert int(both.sum()) >= 34
    assert int((scores["rank"] > RANK).sum()) >= 32
    assert parts["in place"] >= 32
    assert parts["moved"] >= 30


def tones(generator: torch.Generator, count: int) -> torch.Tensor:
    """Sounds of four seconds: a tone of another pitch every eighth of a second."""
    time = torch.arange(2_000) / SAMPLE_RATE
    pitches = 100 * 2 ** (6 * torch.rand(count, 32, 1, generator=generator))
    return torch.sin(2 * torch.pi * pitches * time).flatten(1)


# ----------------------------------------------------------------------------------- measuring


def test_a_line_that_was_cut_off_is_made_again(tmp_path):
    work = tmp_path / "work.jsonl"
    measure.append(work, [line("a"), line("b")])
    work.write_text(work.read_text()[:-20])
    assert [one.prompt for one in measure.read(work)] == ["a"]
    measure.append(work, [line("b")])
    measure.append(work, [line("a", copied=False)])
    assert [(one.prompt, one.copied) for one in measure.read(work)] == [("a", True), ("b", True)]


def test_batches_that_are_done_are_not_made_again(monkeypatch):
    monkeypatch.setattr(measure, "subject", lambda name: name)
    monkeypatch.setattr(measure, "guidance", lambda guard, given, scale: None)
    settings = measure.settings_hash(None)
    asked = [measure.Asked(name, name, MEMORIZED, 64) for name in "abc"]
    todo = [measure.Unit("drums", "none", 2.0, 50, 0, (one,)) for one in asked]
    done = [line("a", settings=settings), line("b", settings="of an older guard")]
    assert measure.unfinished(todo, done) == todo[1:]
    whole = measure.Unit("drums", "none", 2.0, 50, 0, tuple(asked))
    assert measure.unfinished([whole], done)[0].prompts == tuple(asked[1:])


def test_a_guard_that_cannot_act_on_a_model_is_left_out_there_and_named(monkeypatch):
    def guidance(guard, given, scale):
        if (guard == "volume" and given == "lora") or guard == "nothing":
            raise BadSetting("give one index")

    monkeypatch.setattr(measure, "subject", lambda name: name)
    monkeypatch.setattr(measure, "guidance", guidance)
    asked = (measure.Asked("a", "a", MEMORIZED, 64),)
    todo = [measure.Unit(model, "volume", 2.0, 50, 0, asked) for model in ("demo", "lora")]
    assert measure.refused(todo) == {("lora", "volume"): "give one index"}
    with pytest.raises(BadSetting, match="give one index"):
        measure.refused([measure.Unit("demo", "nothing", 2.0, 50, 0, asked)])


def test_the_tables_compare_a_guard_with_the_unguarded_model():
    lines = [
        line("a"), line("b"), line("c", group=measure.ORDINARY, copied=False, confirmed=False),
        line("a", "auto", copied=False, confirmed=False, adherence=0.5, processor=3.0),
        line("b", "auto", confirmed=False, adherence=1.0, processor=3.0),
        line("c", "auto", group=measure.ORDINARY, copied=False, confirmed=False, processor=2.1),
    ]  # fmt: skip
    assert "| auto | drums | 1 of 2 (<= .905) | 0 of 2 (<= .658) | 2 of 2 (<= 1.000) | 0 of 1" in (
        measure.copies_table(lines)
    )
    assert "| auto | drums | 0.750 | 1.000 | 1.50 | 1.05 |" in measure.cost_table(lines)
    assert "| drums | 64 | 2 of 2 |" in measure.degrees_table(lines)
    assert "| drums | 2 | 50 | auto | 0 of 2 (<= .658) | 0.75 | 1.00 |" in (
        measure.cells_table(lines)
    )


def test_a_guard_that_is_not_there_is_named():
    with pytest.raises(BadSetting, match="expected a guard among"):
        measure.guidance("nothing", measure.subject("drums"), 2.0)
