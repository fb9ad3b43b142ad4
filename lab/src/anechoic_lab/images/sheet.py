"""A contact sheet: training images above what each method makes of their captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from anechoic_lab.bench.plan import Plan
from anechoic_lab.bench.task import MEMORIZED
from anechoic_lab.images.task import SCENARIO, ImagesTask

ZOOM = 3  # screen pixels a pixel
GAP, LABEL, HEAD = 6, 280, 22


def contact_sheet(
    path: Path,
    model: ImagesTask,
    plan: Plan,
    prompts: int = 13,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw a row for the training images and one for each method of a plan; write a PNG.

    Args:
        path: where to.
        model: the model.
        plan: whose methods, and whose split's memorized prompts.
        prompts: how many of these.
        seed: of every image.
        progress: called with the methods that are done, and how many there are.
    """
    asked = [p.caption for p in model.prompts(SCENARIO, plan.split) if p.group == MEMORIZED]
    captions = asked[:prompts]
    own = model.plates(captions)
    rows = {"training image": model.views[own], "through the codec": model.copies[own]}
    for done, method in enumerate(plan.methods, 1):
        made = model.make(captions, seed, model.guidance(SCENARIO, method), plan.steps)
        rows[method.label] = made.samples
        if progress is not None:
            progress(done, len(plan.methods))
    _draw(path, rows, captions)
    return path


def _draw(path: Path, rows: dict[str, Tensor], captions: Sequence[str]) -> None:
    from PIL import Image, ImageDraw, ImageFont

    side = ZOOM * next(iter(rows.values())).shape[-1]
    size = (LABEL + len(captions) * (side + GAP), HEAD + len(rows) * (side + GAP))
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, caption in enumerate(captions):
        words = caption.replace(", plate ", " ")
        pen.text((LABEL + column * (side + GAP), 4), words, "black", font)
    for line, (label, images) in enumerate(rows.items()):
        top = HEAD + line * (side + GAP)
        pen.text((4, top + side // 2 - 8), label, "black", font)
        for column, image in enumerate(images):
            levels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
            tile = Image.fromarray(levels).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(tile, (LABEL + column * (side + GAP), top))
    sheet.save(path, optimize=True)
