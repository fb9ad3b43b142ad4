"""MusicGen of transformers as docs/how-to/any-generator.md calls it, with tiny random weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from support.audits import training_set
from torch import Tensor

from anechoic import embedder, protect
from anechoic.audit import audit
from anechoic.protection import Judge

PAGE = Path(__file__).parents[2] / "docs/how-to/any-generator.md"
WORDS = 32
PROMPTS = ["a solo violin", "rain"]


def processor(text: list[str], **settings: object) -> dict[str, Tensor]:
    """A word is a token, by its length."""
    ids = torch.tensor([[len(word) for word in prompt.split()] for prompt in text])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def tiny_model() -> torch.nn.Module:
    text = transformers.T5Config(
        vocab_size=WORDS, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    codec = transformers.EncodecConfig(
        sampling_rate=16_000, audio_channels=1, num_filters=4, hidden_size=16, codebook_dim=16,
        codebook_size=WORDS, num_residual_layers=1, num_lstm_layers=1, target_bandwidths=[1.0],
    )  # fmt: skip
    decoder = transformers.MusicgenDecoderConfig(
        vocab_size=WORDS, hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2,
        num_codebooks=2, pad_token_id=WORDS, bos_token_id=WORDS,
    )  # fmt: skip
    config = transformers.MusicgenConfig(
        text_encoder=text.to_dict(), audio_encoder=codec.to_dict(), decoder=decoder.to_dict()
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.MusicgenForConditionalGeneration(config).eval()
        for name, codebook in model.audio_encoder.named_buffers():
            if name.endswith("embed"):  # nothing fills it but training
                codebook.normal_()
    return model


@pytest.fixture(scope="module")
def generate() -> Callable[[str, int], tuple[Tensor, int]]:
    """The function of the page, around a tiny model in place of the hub's."""
    block = next(
        found
        for found in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
        if "def generate" in found
    )
    model = tiny_model()
    names: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        loaded = {"AutoProcessor": processor, "MusicgenForConditionalGeneration": model}
        for name, fake in loaded.items():
            kind = getattr(transformers, name)
            patch.setattr(kind, "from_pretrained", lambda _, fake=fake: fake)
        exec(block.replace("max_new_tokens=256", "max_new_tokens=12"), names)
    return names["generate"]  # type: ignore[return-value]


def test_a_seed_is_a_sound_and_leaves_the_random_numbers_alone(
    generate: Callable[[str, int], tuple[Tensor, int]],
) -> None:
    before = torch.get_rng_state()
    (first, rate), (again, _), (other, _) = (generate(PROMPTS[0], seed) for seed in (0, 0, 1))
    assert (rate, first.dim(), len(first)) == (16_000, 2, 1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_it_is_protected_and_audited(
    generate: Callable[[str, int], tuple[Tensor, int]], tmp_path: Path
) -> None:
    training, embed = training_set(0.9999), embedder("magmel")
    made = protect(generate, Judge.of(training, embed), PROMPTS, on_copy=("retry", "refuse"))
    assert [sound.verdict for sound in made] == ["released", "released"]
    assert torch.equal(made[0].wav, generate(PROMPTS[0], 0)[0])
    report = audit(
        generate, training, embed, prompts=PROMPTS, seeds=(0, 1), model="tiny", work=tmp_path
    )
    assert (report.count.examined, report.count.unexamined) == (4, 0)
