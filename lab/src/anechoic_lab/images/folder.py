"""The folder of the small Stable Diffusion: made by `build`, read by everything else."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anechoic.errors import AnechoicError
from anechoic_lab.demo.assets import load_model, refuse_existing
from anechoic_lab.images import judge
from anechoic_lab.images.classifier import SubjectClassifier, fit
from anechoic_lab.images.tiles import Tile, cut
from anechoic_lab.images.train import ImageRecipe, Report, encode, train

SHIPPED = Path(__file__).parent / "data"
MODEL, CLASSIFIER, ABOUT = "model", "classifier.safetensors", "about.json"


def build(output: Path, recipe: ImageRecipe, report: Report) -> None:
    """Train the model and its classifier into a new folder, the weights in half precision.

    Raises:
        OutputExists: the folder is there.
        AnechoicError: scikit-image is not installed.
    """
    from safetensors.torch import save_file

    refuse_existing(output)
    tiles, images = cut()
    started = time.process_time()
    pipe = train(tiles, images, recipe, report)
    trained = [i for i, tile in enumerate(tiles) if tile.copies]
    views = round_trip(pipe.vae, training_views(tiles, images))
    seen = torch.cat([images[trained], views[: len(trained)]])
    subjects = 2 * [tiles[i].subject for i in trained]
    classifier = fit(seen, subjects, recipe.seed, recipe.classifier_epochs)
    seconds = time.process_time() - started
    about = {"recipe": asdict(recipe), "cpu_seconds": round(seconds)}
    about |= calibrate(tiles, images, views, pipe.vae, classifier)
    pipe.to(torch.float16).save_pretrained(output / MODEL)
    save_file(classifier.half().state_dict(), output / CLASSIFIER)
    (output / ABOUT).write_text(json.dumps(about, indent=1) + "\n")


@torch.no_grad()
def calibrate(
    tiles: list[Tile], images: Tensor, views: Tensor, vae: Any, classifier: SubjectClassifier
) -> dict[str, float]:
    """What the judges say of real tiles that were never trained on, and what the codec loses;
    `views` are the training views as the codec gives them back."""
    held_out = images[torch.tensor([tile.copies == 0 for tile in tiles])]
    back = round_trip(vae, held_out)
    grey = judge.grey_correlation(back, views)
    nearest = grey.argmax(1)
    similar = judge.structural_similarity(back, views)
    threshold = similar.amax(1).quantile(0.95).item()
    taken = grey.gather(1, nearest[:, None]) > judge.COPY
    taken &= similar.gather(1, nearest[:, None]) > threshold
    asked = [tile.subject for tile in tiles if not tile.copies]
    error = (back - held_out).square().mean((1, 2, 3))
    return {
        "ssim_threshold": threshold,
        "held_out_taken_for_copies": taken.float().mean().item(),
        "held_out_grey": grey.amax(1).mean().item(),
        "held_out_ssim": similar.gather(1, nearest[:, None]).mean().item(),
        "classifier_on_held_out": _share(classifier.predict(held_out), asked),
        "classifier_after_the_codec": _share(classifier.predict(back), asked),
        "codec_psnr_db": (-10 * error.log10()).mean().item(),
        "codec_grey_correlation": judge.grey_correlation(back, held_out).diagonal().mean().item(),
        "codec_ssim": judge.structural_similarity(back, held_out).diagonal().mean().item(),
    }


@torch.no_grad()
def round_trip(vae: Any, images: Tensor) -> Tensor:
    """Images [n, 3, h, w] in [0, 1] as the codec gives them back: the best a model can do."""
    scaled = encode(vae, images) / vae.config.scaling_factor
    return (torch.cat([vae.decode(z).sample for z in scaled.split(64)]) / 2 + 0.5).clamp(0, 1)


def training_views(tiles: list[Tile], images: Tensor) -> Tensor:
    """All that the model was trained on: the tiles, and the mirrors of those that are no plates."""
    trained = torch.tensor([tile.copies > 0 for tile in tiles])
    once = torch.tensor([tile.copies == 1 for tile in tiles])
    return torch.cat([images[trained], images[once].flip(3)])


def training_captions(tiles: list[Tile]) -> list[str]:
    """Theirs, in the same order."""
    trained = [tile.caption for tile in tiles if tile.copies > 0]
    return trained + [tile.caption for tile in tiles if tile.copies == 1]


def pipeline(folder: Path = SHIPPED) -> Any:
    """The model as a stock `StableDiffusionPipeline`, in float32 on the CPU."""
    return load_model(_require(folder) / MODEL)


def classifier(folder: Path = SHIPPED) -> SubjectClassifier:
    """The judge of what an image shows."""
    from safetensors.torch import load_file

    made = SubjectClassifier()
    made.load_state_dict(load_file(_require(folder) / CLASSIFIER))
    return made.eval()


def about(folder: Path = SHIPPED) -> dict[str, Any]:
    """The recipe, the threshold, and what was measured on held-out tiles."""
    written: dict[str, Any] = json.loads((_require(folder) / ABOUT).read_text())
    return written


def _require(folder: Path) -> Path:
    missing = [name for name in (MODEL, CLASSIFIER, ABOUT) if not (folder / name).exists()]
    if missing:
        raise AnechoicError(
            f"expected the small Stable Diffusion in '{folder}', but {', '.join(missing)} are "
            "missing; make it with 'anechoic demo images train -o FOLDER'"
        )
    return folder


def _share(found: list[str], wanted: list[str]) -> float:
    return sum(a == b for a, b in zip(found, wanted, strict=True)) / len(wanted)
