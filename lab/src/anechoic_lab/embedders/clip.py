"""Clip: OpenAI's language-image embedding, with a front end that carries gradients."""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from anechoic.embedders.frontend import follow
from anechoic.embedders.weights import WeightsLocation, find, fingerprint, read, read_model
from anechoic.errors import UnknownEmbedder
from anechoic.types import Embedder
from anechoic_lab.embedders.pixels import crop, prepare, resize, standardise

DEFAULT = "openai/clip-vit-large-patch14"
MODES: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}  # Pillow's


class ClipEmbedder(Embedder):
    """CLIP's image tower, and its text tower for prompt adherence (the CLIP score).

    It sees what an image is about, not whether it is the same image: two photographs of one
    breed of dog are near. For copies take `SSCD`; this one for adherence, and as the second
    family that a guard was not optimised for.

    The front end equals the stock `CLIPImageProcessor` (shorter edge to 224 pixels by the
    antialiased cubic, middle square, standardised) but is torch from end to end, and does not
    round to 256 levels.

    The model follows the device of the images. Its weights are frozen, and it computes in
    float32.

    Args:
        source: a repository on huggingface.co, pinned by "@COMMIT" or not; or a folder written by
            `save_pretrained`: of `CLIPModel`, or of `CLIPVisionModelWithProjection`, which has
            no text tower.

    Attributes:
        name: "clip:REPOSITORY@COMMIT" or "clip:/the/folder": leads to the same weights again.
        revision: fingerprint of the image tower's weights, the same wherever they lie.

    Raises:
        UnknownEmbedder: the weights are not here, cannot be had, or are no CLIP.

    Source: Radford et al., 2021 (arXiv:2103.00020).
    """

    sample_rate = 0  # of an image

    def __init__(self, source: str = DEFAULT) -> None:
        location = find("CLIP", source)
        self.name = f"clip:{location}"
        self._location = location
        self._model = _load(location)
        self._text: tuple[Any, Any] | None = None
        self.revision = fingerprint(self._model)
        self.dim = self._model.config.projection_dim
        self._processor = _load_processor(location)

    def __call__(self, images: Tensor, sample_rate: int = 0) -> Tensor:
        """Embed images [b, 3, h, w] in [0, 1], of any size: unit vectors [b, dim]."""
        pixels = self.features(prepare(images, sample_rate).float())
        follow(self._model, pixels)
        return F.normalize(self._model(pixel_values=pixels).image_embeds, dim=1)

    def text(self, captions: list[str]) -> Tensor:
        """Embed captions in the same space, [n, dim], unit norm: cosine to an image is adherence.

        Raises:
            UnknownEmbedder: text tower or tokenizer are not with the weights.
        """
        if self._text is None:
            self._text = _load_text(self._location)
        model, tokenizer = self._text
        follow(model, next(self._model.parameters()))
        tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
        return F.normalize(model(**tokens.to(model.device)).text_embeds, dim=1)

    def features(self, images: Tensor) -> Tensor:
        """What the network sees of images [b, 3, h, w] in [0, 1]."""
        stock = self._processor
        images = resize(images, stock.size["shortest_edge"], MODES[stock.resample])
        images = crop(images, stock.crop_size["height"], stock.crop_size["width"])
        return standardise(images, stock.image_mean, stock.image_std)


def _load(location: WeightsLocation) -> Any:
    from transformers import CLIPVisionModelWithProjection

    config = _tower(location, "vision_config", "clip_vision_model")
    return read_model(location, CLIPVisionModelWithProjection, config=config)


def _tower(location: WeightsLocation, key: str, alone: str) -> Any:
    """The configuration of one tower, from that of both or of the tower alone.

    In that of both, the size of the common space stands apart; a tower would take its default.
    """
    from transformers import AutoConfig

    config = read(location, AutoConfig)
    if config.model_type == alone:
        return config
    if config.model_type != "clip":
        raise UnknownEmbedder(
            f"expected a CLIP, got a model of type {config.model_type!r} in '{location}'; name "
            "another one"
        )
    tower = getattr(config, key)
    tower.projection_dim = config.projection_dim
    return tower


def _load_processor(location: WeightsLocation) -> Any:
    """The stock processor, of which only the settings are used."""
    from transformers import CLIPImageProcessorPil

    stock = read(location, CLIPImageProcessorPil)
    steps = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
    size, part = stock.size, stock.crop_size
    edge = size.get("shortest_edge")
    known = edge and stock.resample in MODES and max(part["height"], part["width"]) <= edge
    if not known or not all(getattr(stock, step) for step in steps):
        raise UnknownEmbedder(
            "expected an image processor that resizes the shorter edge, crops the middle and "
            f"standardises, got another in '{location}'; take '{DEFAULT}'"
        )
    return stock


def _load_text(location: WeightsLocation) -> tuple[Any, Any]:
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    sentence = (
        f"expected text tower and tokenizer beside the image tower of '{location}', got none; name "
        "a repository or folder with a whole CLIP"
    )
    try:
        config = _tower(location, "text_config", "clip_text_model")
        model = read_model(location, CLIPTextModelWithProjection, config=config)
        tokenizer = read(location, AutoTokenizer)
    except UnknownEmbedder as error:
        raise UnknownEmbedder(sentence) from error
    # Without its files transformers 5 makes a tokenizer to which each word is unknown.
    if set(tokenizer("a dog barks").input_ids) <= set(tokenizer.all_special_ids):
        raise UnknownEmbedder(sentence)
    return model, tokenizer
