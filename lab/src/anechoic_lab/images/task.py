"""The small Stable Diffusion as what a bench runs on: its prompts, guards and judges."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from anechoic.diffusers.generate import GeneratedBatch, generate
from anechoic.diffusers.pipelines import call_arguments
from anechoic.errors import BadSetting
from anechoic.guidance import registry
from anechoic.guidance.base import Guidance
from anechoic.index import TrainingIndex
from anechoic.verdict import Rule
from anechoic_lab.bench.plan import Method
from anechoic_lab.bench.task import MEMORIZED, BenchPrompt, Request, SampleScore
from anechoic_lab.images import folder as folders
from anechoic_lab.images import judge
from anechoic_lab.images.descriptor import TinyImage
from anechoic_lab.images.tiles import Tile, cut
from anechoic_lab.metrics import leave_one_out

SCALE = 3.0  # of classifier-free guidance
STEPS = 50
ORDINARY = 9  # ordinary prompts of each split, one of each photograph
SPLITS = ("tune", "report")
SCENARIO = "photographs"
PLANS = Path(__file__).parent / "plans"  # what is run on the prompts of each split
OPENS = "anechoic_lab.images.task:open_images"


def open_images(
    folder: str | Path | None = None, scale: float = SCALE, guide: str = ""
) -> ImagesTask:
    """Open the small Stable Diffusion with all that judges it.

    Args:
        folder: made by `anechoic demo images train`; by default the shipped one.
        scale: of classifier-free guidance.
        guide: "" for the grey thumbnail that guides, "colour" for the one in colour.
    """
    return ImagesTask(Path(folder) if folder else folders.SHIPPED, float(scale), TinyImage(guide))


class ImagesTask:
    """See `anechoic_lab.bench.Task`."""

    name = "images"
    scenarios = (SCENARIO,)

    def __init__(self, folder: Path, scale: float, guide: TinyImage):
        self.scale = scale
        self.pipe = folders.pipeline(folder)
        self.classifier = folders.classifier(folder)
        self.known = folders.about(folder)
        held_out = "calibrated on held-out tiles"
        self.rules = {
            "grey": Rule("grey", judge.COPY, held_out),
            "ssim": Rule("ssim", self.known["ssim_threshold"], held_out),
        }
        self.tiles, self.images = cut()
        self.views = folders.training_views(self.tiles, self.images)
        self.embedder = guide
        self._warm = False

    @cached_property
    def copies(self) -> Tensor:
        """The training images as the codec gives them back: what copies look like."""
        return folders.round_trip(self.pipe.vae, self.views)

    @cached_property
    def index(self) -> TrainingIndex:
        """The training set as the guide sees it, mirrored tiles and all."""
        return TrainingIndex.from_embeddings(
            self.embedder(self.views, 0),
            folders.training_captions(self.tiles),
            embedder_name=self.embedder.name,
            sample_rate=0,
            centre=self.embedder.colour,  # the grey one has no mean to take off
        )

    def about(self) -> Mapping[str, str]:
        measured = self.known
        return {
            "model": f"a small Stable Diffusion, scale {self.scale:g}, {STEPS} steps of DDIM if "
            "the plan names none, 32 x 32 pixels",
            "similarity": "cosine to the nearest training image by the guide's "
            f"{self.embedder.name}",
            "grey": "correlation of grey levels with the nearest of all training images, as the "
            f"codec gives it back; of held-out tiles {measured['held_out_grey']:.2f}",
            "ssim": "structural similarity to the same image; of held-out tiles "
            f"{measured['held_out_ssim']:.2f}",
            "copy": f"grey over {judge.COPY:g} and ssim over {measured['ssim_threshold']:.3f}; "
            f"of held-out tiles {measured['held_out_taken_for_copies']:.3f} are taken for copies",
            "adherence": "the photograph is right, by a classifier trained on real tiles; "
            f"of held-out ones it knows {measured['classifier_on_held_out']:.3f}, and "
            f"{measured['classifier_after_the_codec']:.3f} as the codec gives them back",
            "quality": "the classifier's features against those of the held-out tiles, as the "
            "codec gives them back",
        }

    def fingerprint(self, scenario: str) -> str:
        digest = hashlib.sha256(
            repr((self.tiles, self.known, self.scale, self.embedder.name)).encode()
        )
        digest.update(self.images.numpy().tobytes())
        for part in (self.pipe.unet, self.pipe.text_encoder, self.pipe.vae, self.classifier):
            assert isinstance(part, nn.Module)
            for name, value in sorted(part.state_dict().items()):
                digest.update(name.encode() + value.numpy().tobytes())
        return digest.hexdigest()

    def prompts(self, scenario: str, split: str) -> Sequence[BenchPrompt]:
        """Plates of even places in one split and of odd ones in the other, and captions that
        several tiles share, other ones in each split."""
        if split not in SPLITS:
            raise BadSetting(f"the images have the splits {' and '.join(SPLITS)}, got '{split}'")
        offset = SPLITS.index(split)
        plates = [tile.caption for tile in self.tiles if tile.plate]
        ordinary: dict[str, list[str]] = {}
        for tile in self.tiles:
            of_subject = ordinary.setdefault(tile.subject, [])
            if tile.copies == 1 and tile.caption not in of_subject:
                of_subject.append(tile.caption)
        each = ORDINARY // len(ordinary)
        shared = [c for captions in ordinary.values() for c in captions[offset::2][:each]]
        return [BenchPrompt(caption, caption, MEMORIZED) for caption in plates[offset::2]] + [
            BenchPrompt(caption, caption, "ordinary") for caption in shared
        ]

    def guidance(self, scenario: str, method: Method) -> Guidance | None:
        if not method.guard:
            return None
        given = {"index": self.index, "embedder": self.embedder, "scale": self.scale}
        return registry.build(method.guard, method.settings, given)

    def make(
        self,
        captions: Sequence[str],
        seed: int,
        guidance: Guidance | None = None,
        steps: int | None = None,
    ) -> GeneratedBatch:
        """One image for each caption, all under the same seed."""
        arguments = {**call_arguments(self.pipe, self.scale), "num_inference_steps": steps or STEPS}
        return generate(self.pipe, captions, seed, arguments, guidance)

    def plates(self, captions: Sequence[str]) -> Tensor:
        """The rows of `views` with the tiles that these captions alone have, [n]."""
        known = folders.training_captions(self.tiles)
        return torch.tensor([known.index(caption) for caption in captions])

    @cached_property
    def _trained(self) -> list[Tile]:
        return [tile for tile in self.tiles if tile.copies]

    @torch.no_grad()
    def judge(self, captions: Sequence[str], images: Tensor) -> Mapping[str, Tensor]:
        """All that is told of images [n, 3, h, w] by themselves, [n] each."""
        grey, nearest = judge.grey_correlation(images, self.copies).max(1)
        ssim = judge.structural_similarity(images, self.copies[nearest]).diagonal()
        asked = [caption.partition(",")[0] for caption in captions]
        kept = [a == b for a, b in zip(self.classifier.predict(images), asked, strict=True)]
        emb = self.index.project(self.embedder(images, 0))
        copied = [
            self.rules["grey"].is_copy(a) and self.rules["ssim"].is_copy(b)
            for a, b in zip(grey.tolist(), ssim.tolist(), strict=True)
        ]
        return {
            "grey": grey,
            "ssim": ssim,
            "copied": torch.tensor(copied),
            "kept": torch.tensor(kept, dtype=torch.float32),
            "similarity": self.index.search(emb, 1).scores[:, 0],
        }

    def generate(self, request: Request) -> Sequence[SampleScore]:
        captions, seed = request.captions, request.seed
        if not self._warm:  # the first call of a process is slower
            self.make(captions[:1], seed, steps=3)
            self._warm = True
        made = self.make(
            captions, seed, self.guidance(request.scenario, request.method), request.steps
        )
        told = self.judge(captions, made.samples)
        with torch.no_grad():
            quality = self.classifier.features(made.samples)
        return [
            SampleScore(
                *key,
                similarity=told["similarity"][i].item(),
                copied=bool(told["copied"][i]),
                seconds=made.seconds,
                evaluations=made.passes,
                adherence=told["kept"][i].item(),
                scores={name: told[name][i].item() for name in ("grey", "ssim")},
                quality=quality[i].tolist(),
            )
            for i, key in enumerate(request.keys)
        ]

    @torch.no_grad()
    def reference(self, scenario: str) -> Sequence[Sequence[float]]:
        held_out = self.images[torch.tensor([tile.copies == 0 for tile in self.tiles])]
        seen = folders.round_trip(self.pipe.vae, held_out)
        return self.classifier.features(seen).tolist()

    def baseline(self, scenario: str) -> Sequence[float]:
        trained = len(self._trained)  # a mirror resembles itself too much
        nearest: list[float] = leave_one_out(self.index.vectors(torch.arange(trained))).tolist()
        return nearest
