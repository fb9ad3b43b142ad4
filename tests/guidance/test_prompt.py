"""Methods that change the prompt: on a real, tiny pipeline, and their papers' identities."""

import pytest
import torch
from anechoic_lab.guidance import CADS, EmbeddingNoise, PromptOptimization, PromptPerturbation
from anechoic_lab.guidance.perturb import noise_like, perturbed
from support.pipelines import make_pipe, require_alone_as_together

from anechoic import guard
from anechoic.errors import BadSetting, GuardError
from anechoic.guidance import ClassifierFree, Prompted, TransitionPoint
from anechoic.guidance.base import PromptGuidance
from anechoic.guidance.noise import NoiseLevel
from anechoic.guidance.step import Prompt

METHODS = [
    PromptOptimization(share=0.5),
    PromptPerturbation(kind="repeat"),
    PromptPerturbation(kind="number"),
    PromptPerturbation(kind="word"),
    PromptPerturbation(kind="replace"),
    EmbeddingNoise(std=0.5),
    CADS(noise_scale=1.0),
]


def label(method):
    return f"{type(method).__name__}-{getattr(method, 'kind', '')}"


class Quadratic:
    """A network whose c - u is the sum of the encoded prompt's tokens: d_T has a closed form."""

    ratio = 2.0

    def __call__(self, x, condition):
        if isinstance(condition, torch.Tensor):
            return x + condition.sum(1)
        return x


def prompt_of(encoded, mask=None, progress=0.0, first=None, texts=("a dog barks",) * 2):
    n = len(encoded)
    return Prompt(
        encoded=encoded,
        mask=torch.ones(encoded.shape[:2], dtype=torch.bool) if mask is None else mask,
        texts=list(texts)[:n],
        x=torch.zeros(n, encoded.shape[2]),
        noise=NoiseLevel.from_ratio(Quadratic.ratio),
        progress=progress,
        seeds=tuple(range(10, 10 + n)),
        first=first,
        encode=lambda texts: torch.zeros(len(texts), *encoded.shape[1:]),
        words=lambda: ["cat", "tree"],
        denoise=Quadratic(),
    )


@pytest.mark.parametrize("method", METHODS, ids=label)
class TestEveryMethodThatChangesThePrompt:
    def test_says_so(self, method):
        assert method.changes_prompt

    def test_changes_what_comes_out_and_reproduces_with_the_generators(
        self, method, pipe, generate
    ):
        plain = generate(pipe)
        made = []
        for _ in range(2):
            with guard(pipe, method):
                made.append(generate(pipe))
        assert torch.equal(*made)
        assert not torch.equal(plain, made[0])
        assert torch.equal(generate(pipe), plain)  # the pipeline is as before

    def test_changes_each_sample_of_a_batch_by_itself(self, method, pipe, generate):
        require_alone_as_together(method, pipe, generate)

    def test_another_start_is_another_change(self, method, pipe, generate):
        if isinstance(method, PromptOptimization):
            pytest.skip("nothing about it is drawn")
        seen = []

        class Spy(PromptGuidance):
            scale = method.scale

            def condition(self, prompt):
                seen.append(method.condition(prompt))
                return seen[-1]

        for seed in range(3):
            with guard(pipe, Spy()):
                generate(pipe, "low cello note", steps=3, seed=seed)
        starts = seen[::3]
        assert not (torch.equal(starts[0], starts[1]) and torch.equal(starts[1], starts[2]))

    def test_leaves_alone_what_is_no_text(self, method):
        mask = torch.tensor([[True, True, False]])
        encoded = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0)) * mask[..., None]
        changed = method.condition(prompt_of(encoded, mask))
        assert torch.equal(changed[:, 2], torch.zeros(1, 4))


# ------------------------------------------------------------------------------- optimisation


def test_optimization_lowers_the_distance_to_its_target_and_no_further():
    encoded = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    before = encoded.sum(1).norm(dim=1) / Quadratic.ratio
    method = PromptOptimization(target=0.4 * before.max().item(), iterations=500)
    after = method.condition(prompt_of(encoded)).sum(1).norm(dim=1) / Quadratic.ratio
    assert (after <= method.target).all()
    assert (after > method.target - 0.2).all()  # it stops once it is there: a step is 3 * lr / 2


def test_optimization_leaves_a_prompt_alone_that_is_under_its_target():
    small = torch.full((1, 3, 4), 1e-3)
    large = torch.ones(1, 3, 4)
    method = PromptOptimization(target=1.0, iterations=500)
    both = method.condition(prompt_of(torch.cat([small, large])))
    assert torch.equal(both[:1], small)
    torch.testing.assert_close(both[1:], method.condition(prompt_of(large)))


def test_the_first_step_of_optimization_is_adams():
    """Adam's first step is the learning rate along the sign of the gradient."""
    encoded = torch.tensor([[[3.0, -2.0, 1.0]]])
    moved = PromptOptimization(target=1e-6, iterations=1).condition(prompt_of(encoded))
    torch.testing.assert_close(moved, encoded - 0.05 * encoded.sign())


def test_optimization_happens_once_a_run_and_is_counted(pipe, generate):
    method = PromptOptimization(share=0.01, iterations=4)
    with guard(pipe, method) as trace:
        generate(pipe)
    passes = [record.passes for record in trace.records]
    assert passes == [2 + 1 + 4, 2, 2, 2, 2, 2]  # u, then c at each of the iterations


def test_optimization_lowers_d_of_the_first_step_on_a_real_network(pipe, generate):
    with guard(pipe, ClassifierFree()) as plain:
        generate(pipe)
    with guard(pipe, PromptOptimization(share=0.5, iterations=50)) as trace:
        generate(pipe)
    share = trace.column("distance")[0] / plain.column("distance")[0]
    assert (share <= 0.51).all()


# ------------------------------------------------------------------------------- perturbation


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def test_words_are_added_repeated_or_replaced():
    text, words = "low cello note", ["cat", "tree"]
    for seed in range(20):
        number = perturbed(text, "number", 2, words, draw(seed)).split()
        assert len(number) == 5
        assert [w for w in number if not w.isdigit()] == text.split()
        word = perturbed(text, "word", 1, words, draw(seed)).split()
        assert len(word) == 4
        assert len({*word} & {*words}) == 1
        repeat = perturbed(text, "repeat", 2, words, draw(seed)).split()
        assert len(repeat) == 5
        assert {*repeat} == {*text.split()}
        replace = perturbed(text, "replace", 1, words, draw(seed)).split()
        assert len(replace) == 3
        assert len({*replace} & {*words}) == 1


def test_a_perturbed_prompt_is_encoded_as_the_pipeline_would(pipe, generate):
    method = PromptPerturbation(kind="repeat", count=1)
    texts = []

    class Spy(PromptGuidance):
        scale = 7.0

        def condition(self, prompt):
            texts.append(
                [perturbed(t, "repeat", 1, (), g)
                 for t, g in zip(prompt.texts, prompt.generators(0), strict=True)]
            )  # fmt: skip
            return method.condition(prompt)

    with guard(pipe, Spy()):
        made = generate(pipe)
    torch.testing.assert_close(made, generate(pipe, tuple(texts[0])), rtol=1e-3, atol=1e-3)


def test_perturbation_of_encoded_prompts_is_refused(pipe):
    encoded = torch.randn(1, 16, 16, generator=draw())
    with (
        pytest.raises(GuardError, match="give it the prompt as text"),
        guard(pipe, PromptPerturbation()),
    ):
        pipe(prompt_embeds=encoded, negative_prompt_embeds=torch.zeros_like(encoded),
             num_inference_steps=3, generator=draw())  # fmt: skip


def test_several_waveforms_a_prompt_are_perturbed_each_by_itself(pipe):
    seen = []

    class Spy(PromptGuidance):
        scale = 7.0

        def condition(self, prompt):
            seen.append(list(prompt.texts))
            return prompt.encoded

    with guard(pipe, Spy()):
        pipe(["a dog barks", "rain on a roof"], num_waveforms_per_prompt=2,
             num_inference_steps=3, generator=draw(), output_type="latent")  # fmt: skip
    assert seen[0] == ["a dog barks"] * 2 + ["rain on a roof"] * 2


def test_embedding_noise_has_its_deviation_and_stays_the_same_along_the_run():
    encoded = torch.zeros(2, 50, 64)
    first = EmbeddingNoise(std=0.3).condition(prompt_of(encoded))
    later = EmbeddingNoise(std=0.3).condition(prompt_of(encoded, progress=0.5, first=first))
    assert torch.equal(first, later)
    assert first.std().item() == pytest.approx(0.3, rel=0.02)  # 6,400 draws
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, EmbeddingNoise(std=0.3, seed=1).condition(prompt_of(encoded)))


# --------------------------------------------------------------------------------------- CADS


def test_cads_gamma_is_the_papers_piecewise_line():
    method = CADS(tau1=0.6, tau2=0.9)
    values = [method.gamma(t) for t in (0.0, 0.6, 0.75, 0.9, 1.0)]
    assert values == pytest.approx([1.0, 1.0, 0.5, 0.0, 0.0])
    assert CADS(tau1=0.5, tau2=0.5).gamma(0.5) == 1.0  # and a step where both are the same


def test_cads_keeps_the_prompts_moments_and_anneals():
    encoded = 2 + 3 * torch.randn(2, 8, 16, generator=draw())
    method = CADS(noise_scale=0.5)
    noised = method.condition(prompt_of(encoded, progress=0.2))  # t = 0.8
    for i in range(2):
        assert noised[i].mean().item() == pytest.approx(encoded[i].mean().item(), abs=1e-4)
        assert noised[i].std().item() == pytest.approx(encoded[i].std().item(), rel=1e-4)
    assert torch.equal(method.condition(prompt_of(encoded, progress=0.5)), encoded)  # t < tau1


def test_cads_without_rescaling_is_the_papers_sum():
    encoded = torch.randn(2, 8, 16, generator=draw())
    prompt = prompt_of(encoded, progress=0.25)
    noised = CADS(noise_scale=0.5, mixing=0.0).condition(prompt)
    noise = noise_like(prompt, 1 + 250_000)
    torch.testing.assert_close(noised, 0.5**0.5 * encoded + 0.5 * 0.5**0.5 * noise)


def test_cads_draws_new_noise_at_each_evaluation():
    encoded = torch.randn(1, 8, 16, generator=draw())
    noised = [CADS().condition(prompt_of(encoded, progress=p)) for p in (0.0, 0.02)]
    assert not torch.equal(*noised)


# ---------------------------------------------------------------------------------- the guard


def test_a_prompt_of_one_method_is_guided_by_another(pipe, generate):
    change, static = EmbeddingNoise(std=0.5), TransitionPoint(7.0, 0.0, 0.5)
    with guard(pipe, Prompted(change, static)) as trace:
        made = generate(pipe)
    assert trace.column("scale")[:, 0].tolist() == [0.0] * 3 + [7.0] * 3
    with guard(pipe, static):
        assert not torch.equal(generate(pipe), made)


@pytest.mark.parametrize(
    ("bad", "says"),
    [(lambda e: e[:, 1:], "was to change an encoded prompt"), (lambda e: e * torch.nan, "finite")],
)
def test_a_prompt_of_another_shape_or_not_finite_is_refused(bad, says, pipe, generate):
    class Bad(PromptGuidance):
        scale = 7.0

        def condition(self, prompt):
            return bad(prompt.encoded)

    with pytest.raises(GuardError, match=says), guard(pipe, Bad()):
        generate(pipe)


def test_a_changed_prompt_works_in_bf16():
    pipe = make_pipe().to(torch.bfloat16)
    with guard(pipe, PromptOptimization(share=0.5, iterations=2)):
        made = pipe("a dog barks", num_inference_steps=3, generator=draw()).audios
    assert torch.isfinite(made).all()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: PromptOptimization(target=0.0), "target is a number above 0"),
        (lambda: PromptOptimization(share=1.0), "share is between"),
        (lambda: PromptOptimization(iterations=0), "iterations is 1"),
        (lambda: PromptPerturbation(kind="shuffle"), "kind is number"),
        (lambda: PromptPerturbation(count=0), "count is 1"),
        (lambda: EmbeddingNoise(std=-1.0), "std is a number above 0"),
        (lambda: EmbeddingNoise(std=0.0), "std is a number above 0"),
        (lambda: CADS(noise_scale=0.0), "noise_scale is a number above 0"),
        (lambda: CADS(tau1=1.0, tau2=1.0), "tau1 under 1"),
        (lambda: CADS(tau1=0.9, tau2=0.5), "tau1 <= tau2"),
        (lambda: CADS(mixing=2.0), "mixing is between"),
        (lambda: CADS(noise_scale=-1.0), "noise_scale is a number above 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(make, says):
    with pytest.raises(BadSetting, match=says):
        make()
