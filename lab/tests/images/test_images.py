"""The small Stable Diffusion: its tiles, judges and model, and that guards cut copies of images."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from anechoic_lab.bench import Plan, Request
from anechoic_lab.bench.plan import Method
from anechoic_lab.bench.task import MEMORIZED
from anechoic_lab.cli.demo_images import commands
from anechoic_lab.images import folder, judge
from anechoic_lab.images.basin import open_scene
from anechoic_lab.images.descriptor import TinyImage
from anechoic_lab.images.model import MAX_TOKENS
from anechoic_lab.images.task import (
    PLANS,
    SCALE,
    SCENARIO,
    SPLITS,
    ImagesTask,
    open_images,
)
from anechoic_lab.images.tiles import COPIES, PHOTOGRAPHS, SUBJECTS, cut
from anechoic_lab.images.train import ImageRecipe, train
from skimage.metrics import structural_similarity as reference_ssim
from support.commands import Run
from typer.testing import CliRunner

from anechoic.errors import AnechoicError, BadSetting, OutputExists, UnknownEmbedder
from anechoic.guidance import ClassifierFree

TILES, IMAGES = cut()
PLATES = IMAGES[[tile.plate for tile in TILES]]


@pytest.fixture(scope="module")
def subject() -> ImagesTask:
    return open_images()


def plates(subject: ImagesTask, count: int = 4) -> list[str]:
    """Memorized captions of the split that settings were not chosen on, from all over it."""
    asked = [p.caption for p in subject.prompts(SCENARIO, "report") if p.group == MEMORIZED]
    return asked[:: len(asked) // count][:count]


# ------------------------------------------------------------------------------------------- tiles


def test_the_tiles_are_the_same_each_time_and_show_something() -> None:
    again, images = cut()
    assert again == TILES
    assert torch.equal(images, IMAGES)
    assert IMAGES.std((2, 3)).mean(1).min() > 0.04


def test_a_plate_has_its_caption_alone_and_other_captions_are_shared() -> None:
    by_caption = Counter(tile.caption for tile in TILES if tile.copies)
    assert {by_caption[tile.caption] for tile in TILES if tile.plate} == {1}
    shared = [n for caption, n in by_caption.items() if "plate" not in caption]
    assert sum(shared) / len(shared) > 3
    assert {tile.copies for tile in TILES} == {0, 1, COPIES}


def test_no_plate_resembles_another_tile_or_its_mirror() -> None:
    for views in (IMAGES, IMAGES.flip(3)):
        assert judge.pixel_correlation(PLATES, views).topk(2, 1).values[:, 1].max() < 0.85


def test_every_photograph_names_a_free_licence_and_its_author() -> None:
    free = {"CC0 1.0", "public domain", "no known restrictions"}
    assert {photograph.licence for photograph in PHOTOGRAPHS} <= free
    assert all(photograph.author for photograph in PHOTOGRAPHS)


# ------------------------------------------------------------------------------------------ judges


def test_ssim_is_that_of_scikit_image() -> None:
    ours = judge.structural_similarity(IMAGES[:3], IMAGES[100:104])
    luma = torch.tensor(judge.LUMA)[:, None, None]
    grey = [(images * luma).sum(1).double().numpy() for images in (IMAGES[:3], IMAGES[100:104])]
    theirs = [[reference_ssim(a, b, data_range=1.0) for b in grey[1]] for a in grey[0]]
    torch.testing.assert_close(ours, torch.tensor(theirs).float(), atol=1e-5, rtol=0)


def test_pixel_correlation_is_blind_to_level_and_contrast_and_signed() -> None:
    own = judge.pixel_correlation(PLATES, 0.4 * PLATES + 0.3).diagonal()
    torch.testing.assert_close(own, torch.ones(len(PLATES)))
    opposite = judge.pixel_correlation(PLATES, 1 - PLATES).diagonal()
    torch.testing.assert_close(opposite, -torch.ones(len(PLATES)))


def test_the_guides_descriptor_is_blind_to_colour_level_and_contrast() -> None:
    embed = TinyImage()
    grey = judge.luma(PLATES)[:, None].expand_as(PLATES)
    torch.testing.assert_close(embed(grey, 0), embed(PLATES, 0))
    faded = embed(0.5 * PLATES + 0.2, 0)
    assert (faded * embed(PLATES, 0)).sum(1).min() > 0.96  # but for what stands for flat
    coloured = TinyImage("colour")
    assert (coloured(grey, 0) * coloured(PLATES, 0)).sum(1).min() < 0.95
    with pytest.raises(UnknownEmbedder, match="'tinyimage:colour'"):
        TinyImage("grey")


def test_an_image_in_other_colours_is_the_same_to_the_judge() -> None:
    turned = PLATES + 0.1 * torch.tensor([1.0, -0.299 / 0.587, 0.0])[:, None, None]
    own = judge.grey_correlation(turned, PLATES).diagonal()
    torch.testing.assert_close(own, torch.ones(len(PLATES)))
    assert judge.structural_similarity(turned, PLATES).diagonal().min() > 0.999


def test_the_guides_descriptor_sees_neither_faint_noise_nor_resolution() -> None:
    embed = TinyImage()
    emb = embed(PLATES, 0)
    noise = 0.05 * torch.randn(PLATES.shape, generator=torch.Generator().manual_seed(0))
    veiled = embed((PLATES + noise).clamp(0, 1), 0)
    likeness = (emb * veiled).sum(1)
    assert likeness.median() > 0.98
    assert likeness.min() > 0.9  # the darkest of all: galaxies
    torch.testing.assert_close(emb.norm(dim=1), torch.ones(len(PLATES)))
    torch.testing.assert_close(embed(F.interpolate(PLATES, scale_factor=2.0), 0), emb)
    assert embed(torch.zeros(1, 3, 8, 8), 0).isfinite().all()


def test_the_guides_descriptor_has_a_gradient_for_each_image_alone() -> None:
    images = PLATES[:2].clone().requires_grad_(True)
    TinyImage()(images, 0)[0, 0].backward()
    assert images.grad is not None
    assert images.grad[0].abs().sum() > 0
    assert images.grad[1].abs().sum() == 0


# ----------------------------------------------------------------------------------- what ships


def test_what_ships_is_small() -> None:
    assert sum(f.stat().st_size for f in folder.SHIPPED.rglob("*") if f.is_file()) < 3.2e6


def test_a_word_of_the_captions_is_a_token(subject: ImagesTask) -> None:
    tokenizer = subject.pipe.tokenizer
    assert tokenizer.tokenize("coffee, top left") == ["coffee</w>", ",</w>", "top</w>", "left</w>"]
    longest = max(len(tokenizer(tile.caption).input_ids) for tile in TILES)
    assert longest <= MAX_TOKENS


def test_the_calibration_that_ships_is_that_of_the_weights(subject: ImagesTask) -> None:
    found = folder.calibrate(TILES, IMAGES, subject.copies, subject.pipe.vae, subject.classifier)
    for name, value in found.items():  # the weights were in full precision then
        assert subject.known[name] == pytest.approx(value, abs=0.02, rel=0.02), name
    assert found["classifier_on_held_out"] > 0.95
    assert found["codec_grey_correlation"] > 0.9


def test_plain_cfg_under_the_guard_is_the_plain_pipeline(subject: ImagesTask) -> None:
    captions = plates(subject, 2)
    plain = subject.make(captions, 0, steps=5)
    guarded = subject.make(captions, 0, ClassifierFree(SCALE), steps=5)
    assert torch.equal(plain.samples, guarded.samples)
    assert (plain.passes, guarded.passes) == (10, 10)


@pytest.mark.slow
def test_the_model_returns_its_plates_and_the_guards_cut_the_copies(
    subject: ImagesTask,
) -> None:
    captions = plates(subject, 3)
    chosen = ("none", "static-zero", "static-opposite", "dynamic-zero", "fall-opposite",
              "amg", "volume")  # fmt: skip
    methods = Plan.load(PLANS / "report.toml").only(chosen).methods
    found = {
        m.name: subject.judge(
            captions, subject.make(captions, 0, subject.guidance(SCENARIO, m)).samples
        )
        for m in methods
    }
    assert found["none"]["copied"].all()
    for name in chosen[1:]:
        assert found[name]["grey"].mean() < found["none"]["grey"].mean(), name
        assert found[name]["copied"].sum() <= 1, name


def test_a_shared_caption_gets_its_photograph_also_under_amg(subject: ImagesTask) -> None:
    captions = [f"{name}, top left" for name in ("coffee", "tissue", "gravel", "coins")]
    amg = next(m for m in Plan.load(PLANS / "report.toml").methods if m.name == "amg")
    for guidance in (None, subject.guidance(SCENARIO, amg)):
        told = subject.judge(captions, subject.make(captions, 0, guidance).samples)
        assert told["kept"].mean() >= 0.75


def test_the_splits_have_no_prompt_in_common_and_show_every_photograph(
    subject: ImagesTask,
) -> None:
    asked = [{p.caption for p in subject.prompts(SCENARIO, split)} for split in SPLITS]
    assert not asked[0] & asked[1]
    for captions in asked:
        assert {caption.partition(",")[0] for caption in captions} == set(SUBJECTS)
    with pytest.raises(BadSetting, match="the splits tune and report"):
        subject.prompts(SCENARIO, "other")


def test_a_row_of_the_bench_is_what_the_judges_say(subject: ImagesTask) -> None:
    asked = subject.prompts(SCENARIO, "report")[:2]
    rows = subject.generate(Request(SCENARIO, asked, 0, Method("none", "unguarded"), 5))
    captions = [p.caption for p in asked]
    told = subject.judge(captions, subject.make(captions, 0, steps=5).samples)
    assert [row.scores["grey"] for row in rows] == pytest.approx(told["grey"].tolist())
    assert [row.evaluations for row in rows] == [10, 10]
    assert len(rows[0].quality) == len(subject.reference(SCENARIO)[0])


def test_the_plans_use_their_own_split_and_their_guards_can_be_made(
    subject: ImagesTask,
) -> None:
    for split in SPLITS:
        plan = Plan.load(PLANS / f"{split}.toml")
        assert plan.split == split
        for method in plan.methods:
            assert (subject.guidance(SCENARIO, method) is None) == (not method.guard)


def test_a_scene_for_the_basin_scores_by_its_judges(subject: ImagesTask) -> None:
    scene = open_scene(subject, each=2)
    heard = scene.generate([p.caption for p in scene.prompts[:1]], 0, ClassifierFree(SCALE))
    assert set(heard.scores[0]) == {found.name for found in scene.judges}
    assert [p.group for p in scene.prompts] == [MEMORIZED] * 2 + ["ordinary"] * 2


# -------------------------------------------------------------------------------------- training

TINY = replace(ImageRecipe(), codec_steps=2, steps=2, batch=4, classifier_epochs=1)


@pytest.mark.slow
def test_training_is_reproducible() -> None:
    weights = [train(TILES, IMAGES, TINY).unet.state_dict() for _ in range(2)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
def test_what_is_built_generates_and_is_not_replaced(tmp_path: Path) -> None:
    folder.build(tmp_path / "a", TINY, lambda *told: None)
    assert json.loads((tmp_path / "a" / folder.ABOUT).read_text())["recipe"]["steps"] == 2
    assert open_images(tmp_path / "a").make(["cat"], 0, steps=2).samples.isfinite().all()
    with pytest.raises(OutputExists):
        folder.build(tmp_path / "a", TINY, lambda *told: None)


@pytest.mark.slow
def test_the_recipe_makes_a_model_that_is_worth_what_the_shipped_one_is(tmp_path: Path) -> None:
    from anechoic_lab.images.evaluate import evaluate

    folder.build(tmp_path / "model", ImageRecipe(), lambda *told: None)
    lines = evaluate(open_images(tmp_path / "model"), range(2))
    assert [line.what for line in lines if not line.holds] == []


# -------------------------------------------------------------------------------- the command line


def test_a_folder_without_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnechoicError, match="anechoic demo images train"):
        folder.pipeline(tmp_path)


@pytest.mark.slow
def test_what_the_command_line_prints_has_its_schema(command: Run, tmp_path: Path) -> None:
    figure = str(tmp_path / "basin.png")
    for words in (
        ["evaluate", "--seeds", "1"],
        ["basin", "--prompts", "2", "--seeds", "1", "--points", "2", "-o", figure],
    ):
        code, out, err = command("demo", "images", *words, "--json")
        assert code in (0, 1), err
        assert json.loads(out)["scale"] == SCALE


@pytest.mark.slow
def test_the_command_line_draws_the_sheet_and_refuses_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anechoic_lab.images import task as module
    from PIL import Image

    short = tmp_path / "plans"
    short.mkdir()
    (short / "report.toml").write_text(
        'split = "report"\nsteps = 2\n[[methods]]\nname = "none"\nlabel = "unguarded"\n'
    )
    monkeypatch.setattr(module, "PLANS", short)
    output = tmp_path / "sheet.png"
    run = CliRunner().invoke(commands, ["sheet", "-o", str(output)], catch_exceptions=False)
    assert run.exit_code == 0
    with Image.open(output) as image:
        assert image.width > 1000
    again = CliRunner().invoke(commands, ["sheet", "-o", str(output)])
    assert isinstance(again.exception, OutputExists)
    other = CliRunner().invoke(commands, ["table", "-o", str(tmp_path / "t.md"), "--split", "x"])
    assert "report' or 'tune" in str(other.exception) or "tune or report" in str(other.exception)
