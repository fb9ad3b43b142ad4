"""Does an image show what was asked for? A small network that tells the photographs apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anechoic_lab.demo.classifier import conv_block
from anechoic_lab.images.tiles import SUBJECTS

FEATURES = 48
SHIFT = 4  # pixels by which a view may be moved


class SubjectClassifier(nn.Module):
    """Images [b, 3, 32, 32] in [0, 1] to the photograph that they are of."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv_block(3, 16), conv_block(16, 32), conv_block(32, FEATURES))
        self.dropout = nn.Dropout(0.3)
        self.out = nn.Linear(FEATURES, len(SUBJECTS))

    def features(self, images: Tensor) -> Tensor:
        """What the quality of a set is measured by, [b, FEATURES]."""
        pooled: Tensor = self.layers(2 * images - 1).mean((2, 3))
        return pooled

    def forward(self, images: Tensor) -> Tensor:
        """Logits [b, subjects]."""
        logits: Tensor = self.out(self.dropout(self.features(images)))
        return logits

    @torch.no_grad()
    def predict(self, images: Tensor) -> list[str]:
        """The most probable subject of each image."""
        return [SUBJECTS[i] for i in self.eval()(images).argmax(1).tolist()]


def fit(
    images: Tensor, subjects: Sequence[str], seed: int = 0, epochs: int = 60
) -> SubjectClassifier:
    """Train on real images [n, 3, h, w]: moved, mirrored, turned upside down, veiled in noise."""
    torch.manual_seed(seed)  # the layers take their first weights from the global generator
    generator = torch.Generator().manual_seed(seed)
    model = SubjectClassifier().train()
    wanted = torch.tensor([SUBJECTS.index(subject) for subject in subjects])
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    batches = -(-len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=epochs * batches)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(
            -(-len(images) // batches)
        ):
            logits = model(_viewed(images[rows], generator))
            loss = F.cross_entropy(logits, wanted[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def _viewed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Views that do not make it another subject."""
    side = images.shape[-1]
    flips = torch.randint(2, (2,), generator=generator).tolist()
    images = images.flip([axis for axis, flip in zip((2, 3), flips, strict=True) if flip])
    y, x = torch.randint(2 * SHIFT + 1, (2,), generator=generator).tolist()
    moved = F.pad(images, (SHIFT,) * 4, mode="reflect")[..., y : y + side, x : x + side]
    return moved + 0.02 * torch.randn(moved.shape, generator=generator)
