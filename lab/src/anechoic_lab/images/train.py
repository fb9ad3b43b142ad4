"""Train the small Stable Diffusion: seeded, on one core, in some seven minutes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anechoic_lab.images.model import MAX_TOKENS, build_pipeline, make_autoencoder
from anechoic_lab.images.tiles import Tile

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusionPipeline

Report = Callable[[str, int, int, float], None]  # what, step, of how many, its loss


@dataclass(frozen=True)
class ImageRecipe:
    """What the shipped model was trained with."""

    codec_steps: int = 2_000
    codec_batch: int = 12
    codec_rate: float = 3e-3
    kl: float = 1e-4  # weight of the latents' divergence from noise, a latent
    steps: int = 2_000
    batch: int = 32
    rate: float = 2e-3
    weight_decay: float = 0.01
    dropout: float = 0.1  # of the caption
    ema: float = 0.998
    classifier_epochs: int = 40
    seed: int = 0

    def shortened_to(self, steps: int) -> ImageRecipe:
        """The same recipe in about so many steps of the denoiser."""
        share = steps / self.steps
        codec, epochs = (
            max(1, round(n * share)) for n in (self.codec_steps, self.classifier_epochs)
        )
        return replace(self, steps=steps, codec_steps=codec, classifier_epochs=epochs)


def _silent(what: str, step: int, steps: int, loss: float) -> None:
    """No report."""


def train_autoencoder(
    images: Tensor, recipe: ImageRecipe, report: Report = _silent
) -> AutoencoderKL:
    """An autoencoder of images [n, 3, h, w] in [0, 1], whose scaled latents have unit deviation.

    Trained on all eight turns and mirrors of each tile, for the error of the pixels; with so much
    room, 512 numbers for 3072, it needs neither a perceptual loss nor an adversary.
    """
    vae = make_autoencoder(recipe.seed)
    optimizer, schedule = _optimizer(vae, recipe.codec_rate, recipe.codec_steps)
    generator = torch.Generator().manual_seed(recipe.seed)
    for step in range(recipe.codec_steps):
        rows = torch.randint(len(images), (recipe.codec_batch,), generator=generator)
        x = 2 * images[rows] - 1
        turns, mirrored = torch.randint(8, (1,), generator=generator).item() % 4, step % 2
        x = torch.rot90(x.flip(3) if mirrored else x, int(turns), (2, 3))
        posterior = vae.encode(x).latent_dist
        decoded = vae.decode(posterior.sample(generator)).sample
        loss = F.mse_loss(decoded, x) + 0.1 * F.l1_loss(decoded, x)
        latents = posterior.mean[0].numel() * len(x)
        loss = loss + recipe.kl * posterior.kl().sum() / latents
        _descend(loss, optimizer, schedule, vae)
        report("autoencoder", step + 1, recipe.codec_steps, loss.item())
    vae.eval().requires_grad_(False)
    vae.register_to_config(scaling_factor=1 / encode(vae, images, 1.0).std().item())
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor, scale: float | None = None) -> Tensor:
    """Scaled latents of images [n, 3, h, w] in [0, 1]."""
    means = [vae.encode(2 * part - 1).latent_dist.mean for part in images.split(64)]
    return torch.cat(means) * (vae.config.scaling_factor if scale is None else scale)


def train(
    tiles: Sequence[Tile], images: Tensor, recipe: ImageRecipe, report: Report = _silent
) -> StableDiffusionPipeline:
    """The pipeline with averaged weights, trained on the tiles that are not held out.

    Args:
        tiles: all of them.
        images: theirs, [n, 3, 32, 32] in [0, 1].
        recipe: settings.
        report: called after every step.
    """
    chosen = [i for i, tile in enumerate(tiles) if tile.copies]
    tiles, images = [tiles[i] for i in chosen], images[chosen]
    vae = train_autoencoder(images, recipe, report)
    pipe = build_pipeline([tile.caption for tile in tiles], vae, recipe.seed)
    # a tile that is drawn once is seen from two sides, so that it is harder to know by heart
    latents = torch.stack([encode(vae, images), encode(vae, images.flip(3))])
    averaged = copy.deepcopy(pipe)
    live = nn.ModuleList([pipe.unet, pipe.text_encoder]).train()
    slow = nn.ModuleList([averaged.unet, averaged.text_encoder]).requires_grad_(False).eval()
    optimizer, schedule = _optimizer(live, recipe.rate, recipe.steps, recipe.weight_decay)
    generator = torch.Generator().manual_seed(recipe.seed)
    copies = torch.tensor([float(tile.copies) for tile in tiles])
    words = _tokens(pipe, [*(tile.caption for tile in tiles), ""])
    for step in range(recipe.steps):
        rows = torch.multinomial(copies, recipe.batch, replacement=True, generator=generator)
        mirrored = torch.randint(2, rows.shape, generator=generator) * (copies[rows] == 1)
        dropped = torch.rand(recipe.batch, generator=generator) < recipe.dropout
        said = torch.where(dropped, len(tiles), rows)
        loss = _loss(pipe, latents[mirrored.long(), rows], words[said], generator)
        _descend(loss, optimizer, schedule, live)
        with torch.no_grad():
            decay = min(recipe.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(slow.parameters()), list(live.parameters()), 1 - decay)
        report("denoiser", step + 1, recipe.steps, loss.item())
    return averaged


def _tokens(pipe: StableDiffusionPipeline, captions: Sequence[str]) -> Tensor:
    """As the pipeline makes them, [n, s]."""
    ids: Tensor = pipe.tokenizer(
        list(captions),
        padding="max_length",
        max_length=MAX_TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return ids


def _loss(
    pipe: StableDiffusionPipeline, x0: Tensor, words: Tensor, generator: torch.Generator
) -> Tensor:
    """Mean squared error of v = alpha*eps - sigma*x0, at stratified timesteps."""
    b = len(x0)
    abar = pipe.scheduler.alphas_cumprod
    t = ((torch.arange(b) + torch.rand(b, generator=generator)) / b * len(abar)).long()
    alpha, sigma = (level.sqrt()[:, None, None, None] for level in (abar[t], 1 - abar[t]))
    eps = torch.randn(x0.shape, generator=generator)
    text = pipe.text_encoder(words)[0]
    v = pipe.unet(alpha * x0 + sigma * eps, t, encoder_hidden_states=text).sample
    return F.mse_loss(v, alpha * eps - sigma * x0)


def _optimizer(
    module: nn.Module, rate: float, steps: int, decay: float = 0.0
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW; warm up, then fall along a cosine."""
    optimizer = torch.optim.AdamW(
        module.parameters(), rate, betas=(0.9, 0.99), weight_decay=decay, fused=True
    )

    def share(step: int) -> float:
        return min(1.0, (step + 1) / 100) * (0.51 + 0.49 * math.cos(math.pi * step / steps))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def _descend(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    module: nn.Module,
) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    schedule.step()
