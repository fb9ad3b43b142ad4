"""Tiny models with random weights, of the classes that the real embedders load."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    RobertaTokenizer,
)

SYMBOLS = sorted(ByteLevel.alphabet())


def clap(*, fused: bool = False, seed: int = 0) -> ClapModel:
    torch.manual_seed(seed)
    text = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 40}
    audio = {"patch_embeds_hidden_size": 8, "hidden_size": 64, "depths": [1, 1, 1, 1]}
    audio |= {"num_attention_heads": [1, 1, 2, 2]}
    # At the usual deviation of 0.02 so small a network hardly hears its input.
    audio |= {"initializer_factor": 10.0}
    if fused:
        audio |= {"enable_fusion": True, "fusion_type": "aff_2d"}
    return ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=16)).eval()


def clap_extractor(*, fused: bool = False) -> ClapFeatureExtractor:
    return ClapFeatureExtractor(
        truncation="fusion" if fused else "rand_trunc", padding="repeatpad", frequency_min=50
    )


def clap_tokenizer() -> RobertaTokenizer:
    symbols = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *SYMBOLS]
    vocabulary = {symbol: i for i, symbol in enumerate(symbols)}
    return RobertaTokenizer(vocab=vocabulary, merges=[], model_max_length=38)


def save_clap(folder: Path, *, fused: bool = False, seed: int = 0) -> Path:
    """A CLAP as a folder, with everything."""
    clap(fused=fused, seed=seed).save_pretrained(folder)
    clap_extractor(fused=fused).save_pretrained(folder)
    clap_tokenizer().save_pretrained(folder)
    return folder


def save_clip(folder: Path) -> Path:
    """A whole CLIP as a folder, of 32 pixels."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 32}
    size |= {"num_attention_heads": 2, "initializer_factor": 20.0}
    vision = size | {"image_size": 32, "patch_size": 8}
    symbols = [*SYMBOLS, *(f"{s}</w>" for s in SYMBOLS), "<|startoftext|>", "<|endoftext|>"]
    last = len(symbols) - 1
    text = size | {"vocab_size": len(symbols), "max_position_embeddings": 40}
    text |= {"bos_token_id": last - 1, "eos_token_id": last}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    vocabulary = {symbol: i for i, symbol in enumerate(symbols)}
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=38).save_pretrained(folder)
    return folder


class Residual(nn.Module):
    """Two normalised convolutions beside a shortcut; the picture is halved."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.shortcut = nn.Conv2d(inner, outer, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(inside + self.shortcut(x))


class ResNet(nn.Module):
    """What SSCD is, in small: residual network, generalised mean, 512 numbers of unit norm."""

    def __init__(self, *, unit: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, stride=4, padding=3)
        self.layers = nn.Sequential(Residual(8, 16), Residual(16, 32))
        self.head = nn.Linear(32, 512)
        self.unit = unit

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(F.relu(self.stem(x)))
        pooled = x.flatten(2).clamp(min=1e-6).pow(3.0).mean(2).pow(1 / 3.0)
        emb = self.head(pooled)
        return F.normalize(emb) if self.unit else emb


def save_sscd(file: Path, *, frozen: bool = False, unit: bool = True) -> Path:
    """A TorchScript file, its weights as parameters or, frozen, as constants."""
    torch.manual_seed(0)
    script = torch.jit.script(ResNet(unit=unit).eval())
    (torch.jit.freeze(script) if frozen else script).save(file)
    return file
