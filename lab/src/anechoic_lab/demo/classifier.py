"""Measures prompt adherence of notes, with a small classifier of instrument and register."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anechoic_lab.demo.codec import mel_filters
from anechoic_lab.demo.corpus import INSTRUMENTS, REGISTERS, SAMPLE_RATE

HOP = 256  # samples of a frame, 16 ms
PITCH = 4  # a view is moved by at most this many of the 64 bands
TILT = 0.3  # largest tilt and change of level, in standard deviations


@dataclass(frozen=True)
class Labels:
    """What a classifier tells apart: instruments, which belong to families, and registers."""

    families: Mapping[str, Sequence[str]]  # the instruments of each
    registers: Sequence[str]

    @property
    def instruments(self) -> list[str]:
        """All instruments, by family."""
        return [name for names in self.families.values() for name in names]


NOTES = Labels({f: tuple(programs.values()) for f, programs in INSTRUMENTS.items()}, REGISTERS)


def conv_block(channels_in: int, channels_out: int) -> nn.Sequential:
    """A convolution that halves height and width."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


class NoteClassifier(nn.Module):
    """Log mel to instrument and register; pools over time, so the rendering does not matter."""

    mean: Tensor  # mean and deviation of the log mels it was trained on
    std: Tensor
    filters: Tensor

    def __init__(self, labels: Labels = NOTES) -> None:
        super().__init__()
        self.labels = labels
        self.names = len(labels.instruments)
        self.layers = nn.Sequential(conv_block(1, 16), conv_block(16, 32), conv_block(32, 64))
        self.dropout = nn.Dropout(0.3)
        self.out = nn.Linear(2 * 64 * 8, self.names + len(labels.registers))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        filters = mel_filters(64, 513, SAMPLE_RATE, 40.0, 7600.0)
        self.register_buffer("filters", filters, persistent=False)

    def log_mel(self, wav: Tensor) -> Tensor:
        """[b, t] at 16 kHz -> [b, 64, t / HOP]."""
        wav = wav / wav.abs().amax(1, keepdim=True).clamp_min(1e-6)
        window = torch.hann_window(1024)
        spectrum = torch.stft(wav, 1024, HOP, window=window, return_complex=True).abs()
        return torch.log(self.filters @ spectrum[..., : wav.shape[1] // HOP] + 1e-3)

    def forward(self, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of instrument [b, names] and register [b, registers]."""
        hidden = self.layers(((log_mel - self.mean) / self.std)[:, None])
        pooled = torch.cat([hidden.mean(3), hidden.amax(3)], 1).flatten(1)
        logits = self.out(self.dropout(pooled))
        return logits[:, : self.names], logits[:, self.names :]

    @torch.no_grad()
    def predict(self, wav: Tensor) -> tuple[list[str], list[str]]:
        """The most probable family and register of each note [b, t] at 16 kHz."""
        self.eval()
        names, registers = self(self.log_mel(wav))
        families = list(self.labels.families)
        of = [i for i, among in enumerate(self.labels.families.values()) for _ in among]
        to_family = F.one_hot(torch.tensor(of), len(families)).float()
        found = (names.softmax(1) @ to_family).argmax(1)
        return (
            [families[i] for i in found.tolist()],
            [self.labels.registers[i] for i in registers.argmax(1).tolist()],
        )

    def save(self, path: Path) -> None:
        """Write the weights, with the labels."""
        from safetensors.torch import save_file

        weights = {k: v.contiguous() for k, v in self.state_dict().items()}
        save_file(weights, path, {"labels": json.dumps(asdict(self.labels))})

    @classmethod
    def load(cls, path: Path) -> NoteClassifier:
        """Read what `save` wrote; weights without labels are those of `NOTES`."""
        from safetensors import safe_open
        from safetensors.torch import load_file

        with safe_open(path, "pt") as file:
            written = (file.metadata() or {}).get("labels")
        made = cls(Labels(**json.loads(written)) if written else NOTES)
        made.load_state_dict(load_file(path), strict=True)
        return made.eval()


def fit(
    wav: Tensor,
    instruments: list[str],
    registers: list[str],
    seed: int = 0,
    epochs: int = 40,
    labels: Labels = NOTES,
) -> NoteClassifier:
    """Train on augmented real notes [n, t] after a round trip through the codec."""
    torch.manual_seed(seed)  # the layers draw their initial weights from the global generator
    generator = torch.Generator().manual_seed(seed)
    model = NoteClassifier(labels)
    with torch.no_grad():
        mel = torch.cat([model.log_mel(part) for part in wav.split(256)])
    model.mean, model.std = mel.mean(), mel.std()
    name = torch.tensor([labels.instruments.index(x) for x in instruments])
    register = torch.tensor([labels.registers.index(x) for x in registers])
    batch = min(64, len(mel))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    total = epochs * (len(mel) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=total)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(mel), generator=generator)
        for rows in order[: len(mel) // batch * batch].split(batch):
            moved = int(torch.randint(-PITCH, PITCH + 1, (1,), generator=generator))
            moved *= int(torch.randint(0, 2, (1,), generator=generator))
            names, registers_ = model(_viewed(mel[rows], moved, model.std, generator))
            loss = F.cross_entropy(names, name[rows], label_smoothing=0.1)
            if not moved:  # a few semitones can change the register
                loss = loss + 2 * F.cross_entropy(registers_, register[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def _viewed(mel: Tensor, moved: int, std: Tensor, generator: torch.Generator) -> Tensor:
    """Augment log mels [b, 64, frames] in ways that preserve the instrument.

    They are shifted in time, and by `moved` bands in frequency, so that an instrument is recognized
    at new pitches; tilted and changed in level; half of the batches blurred in time; with faint
    noise.
    """
    shift = int(torch.randint(-8, 9, (1,), generator=generator))
    view = torch.roll(mel, (moved, shift), (1, 2))
    if moved > 0:
        view[:, :moved] = view[:, moved : moved + 1]
    elif moved < 0:
        view[:, moved:] = view[:, moved - 1 : moved]
    level, slope = (2 * torch.rand(2, len(mel), 1, 1, generator=generator) - 1) * TILT * std
    view = view + level + slope * torch.linspace(-1, 1, view.shape[1])[:, None]
    if torch.rand((), generator=generator) < 0.5:
        view = F.avg_pool1d(F.pad(view, (1, 1), mode="replicate"), 3, 1)
    return view + 0.05 * std * torch.randn(view.shape, generator=generator)
