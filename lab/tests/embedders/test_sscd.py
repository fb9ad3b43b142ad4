"""SSCD: the documented preprocessing, and files that are not its network; a tiny random one."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from anechoic_lab.embedders.sscd import FILE, SSCD
from PIL import Image
from support import embedder_models as models

from anechoic import TrainingIndex
from anechoic.cli.training import open_index
from anechoic.embedders import embedder
from anechoic.errors import IndexMismatch, UnknownEmbedder
from anechoic.verdict import Verifier


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return models.save_sscd(tmp_path_factory.mktemp("sscd") / FILE)


@pytest.fixture(scope="module")
def sscd(file):
    return SSCD(str(file))


def picture(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 3, height, width), generator=generator) / 255


def documented(image: torch.Tensor) -> torch.Tensor:
    """The authors' `small_288`: Resize(288), ToTensor, Normalize, as they act on a Pillow image."""
    pillow = Image.fromarray((image[0] * 255).round().byte().permute(1, 2, 0).numpy())
    short = min(pillow.size)
    pillow = pillow.resize(
        tuple(int(288 * side / short) for side in pillow.size), Image.Resampling.BILINEAR
    )
    tensor = torch.from_numpy(np.array(pillow)).permute(2, 0, 1)[None].float() / 255
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    return (tensor - mean) / std


@pytest.mark.parametrize("size", [(512, 512), (288, 288), (300, 451), (97, 64)])
def test_the_front_end_is_the_documented_one_to_the_rounding_of_8_bits(sscd, size):
    image = picture(*size)
    atol = 1.1 / 255 / 0.224  # one level over the smallest deviation of a channel
    torch.testing.assert_close(sscd.features(image), documented(image), atol=atol, rtol=0)


def test_the_descriptor_is_the_files_own_and_has_512_numbers(sscd, file):
    image = picture(288, 300)
    with torch.no_grad():
        stock = torch.jit.load(file)(documented(image))
    assert sscd.dim == 512
    torch.testing.assert_close(sscd(image), stock, atol=1e-5, rtol=0)


def test_weights_that_the_file_holds_as_constants_are_the_same_network(sscd, tmp_path):
    frozen = SSCD(str(models.save_sscd(tmp_path / "frozen.pt", frozen=True)))
    image = picture(40, 50).requires_grad_()
    torch.testing.assert_close(frozen(image), sscd(image), atol=1e-5, rtol=0)
    (grad,) = torch.autograd.grad(frozen(image)[0, 0], image)
    assert grad.any()


def test_the_gradient_is_that_of_finite_differences(sscd):
    image = picture(32, 32).clamp(0.1, 0.9).requires_grad_()
    target = sscd(picture(40, 40)).detach()

    def score(x):
        return (sscd(x) * target).sum()

    (grad,) = torch.autograd.grad(score(image), image)
    step = 1e-2 * grad / grad.norm()
    with torch.no_grad():
        difference = (score(image + step) - score(image - step)) / 2
    torch.testing.assert_close(difference, 1e-2 * grad.norm(), rtol=0.05, atol=0)


def test_every_call_gives_the_same_bits_with_and_without_a_gradient(sscd):
    image = picture(64, 64)
    first = sscd(image)
    for again in range(4):
        assert torch.equal(sscd(image.clone().requires_grad_(again % 2 == 0)).detach(), first)


def test_a_file_that_an_index_names_is_not_run(file, tmp_path, monkeypatch):
    index = TrainingIndex.from_embeddings(torch.eye(512)[:3], embedder_name=f"sscd:{file}")
    index.save(tmp_path / "i")
    with monkeypatch.context() as context:
        context.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("it was run"))
        for opened in (Verifier.load, open_index):
            with pytest.raises(UnknownEmbedder, match=r"which would run.*--embedder sscd:"):
                opened(tmp_path / "i")
    with pytest.raises(IndexMismatch, match="revision"):  # it was run, as the user named it
        open_index(str(tmp_path / "i"), f"sscd:{file}")


def test_without_a_name_the_file_of_torch_hub_is_taken(file, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(UnknownEmbedder, match=rf"^expected .*, got none at .*; fetch .*/{FILE}"):
        embedder("sscd")
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(file, tmp_path / "checkpoints")
    here, there = embedder("sscd"), embedder(f"sscd:{file}")
    assert (here.name, there.name) == ("sscd", f"sscd:{file}")
    assert here.revision == there.revision


def test_another_file_has_another_revision(sscd, tmp_path):
    assert SSCD(str(models.save_sscd(tmp_path / "b.pt", frozen=True))).revision != sscd.revision


def test_a_file_of_weights_alone_is_refused(tmp_path):
    torch.save(models.ResNet().state_dict(), tmp_path / "sscd_disc_mixup.torchvision.pt")
    with pytest.raises(UnknownEmbedder, match=r"^expected a TorchScript file .*, got .*; of its"):
        SSCD(str(tmp_path / "sscd_disc_mixup.torchvision.pt"))


def test_a_network_whose_answer_is_no_descriptor_is_refused(tmp_path):
    models.save_sscd(tmp_path / "logits.pt", unit=False)
    with pytest.raises(UnknownEmbedder, match=r"^expected .* of unit norm, got .*; it is no SSCD"):
        SSCD(str(tmp_path / "logits.pt"))


def test_a_network_that_takes_no_image_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(5, 2)).save(tmp_path / "linear.pt")
    with pytest.raises(UnknownEmbedder, match=r"^expected a network that embeds images .*, got .*"):
        SSCD(str(tmp_path / "linear.pt"))
