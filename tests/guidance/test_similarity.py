"""When samples are compared with the training set: seldom while a gate is shut, each by itself."""

from dataclasses import replace

import pytest
import torch
from support.amg_toy import RATIOS, XS, Toy, run_amg

from anechoic.errors import BadSetting
from anechoic.guidance import AntiMemorization, ClassifierFree, GramVolume, LogSNR, Progress
from anechoic.guidance.noise import NoiseLevel
from anechoic.guidance.similarity import read_off, rows_to_compare
from anechoic.guidance.step import Record, Step


def history_of(columns, gates):
    """Records with these similarities and gates, [n, b]."""
    empty = torch.zeros(len(columns[0]))
    return tuple(
        Record(k / 10, NoiseLevel.from_ratio(1.0), empty, empty,
               notes={"similarity": torch.tensor(sim), "gate": torch.tensor(gate)})
        for k, (sim, gate) in enumerate(zip(columns, gates, strict=True))
    )  # fmt: skip


NAN = float("nan")


def at(history, progress=0.5):
    x = torch.zeros(3, 1)
    return Step(x, NoiseLevel.from_ratio(1.0), x, x, progress, history, None, None, 1)


def test_a_sample_is_compared_when_it_was_not_lately_or_its_gate_is_open():
    shut = [False, False, False]
    step = at(
        history_of(
            [[0.1, 0.1, 0.9], [NAN, 0.1, 0.9], [NAN, NAN, 0.9]],
            [shut, shut, [False, False, True]],
        )
    )
    assert rows_to_compare(step, None, 1).tolist() == [0, 1, 2]
    assert rows_to_compare(step, None, 2).tolist() == [
        0,
        1,
        2,
    ]  # the last one compared the third
    assert rows_to_compare(step, None, 3).tolist() == [0, 2]
    assert rows_to_compare(step, None, 4).tolist() == [2]
    assert rows_to_compare(at(()), None, 9).tolist() == [0, 1, 2]  # nobody ever was
    assert rows_to_compare(step, Progress(0.6), 1).tolist() == []
    assert rows_to_compare(step, LogSNR(0.0), 1).tolist() == [0, 1, 2]


def test_evaluations_that_another_method_guided_are_none_that_compared():
    bare = Record(0.0, NoiseLevel.from_ratio(1.0), torch.zeros(3), torch.zeros(3))
    assert rows_to_compare(at((bare,)), None, 2).tolist() == [0, 1, 2]


@pytest.mark.parametrize("method", [AntiMemorization, GramVolume])
@pytest.mark.parametrize("gradient", ["x0", "denoiser"])
def test_each_sample_of_a_batch_goes_by_its_own_history(method, gradient):
    toy = Toy()
    limits = {"lambda_min": 0.3, "lambda_max": 0.3} if method is AntiMemorization else {
        "threshold": 0.3
    }  # fmt: skip
    made = method(toy, toy, gradient=gradient, every=3, start=Progress(0.25), **limits)
    together = run_amg(made, toy, XS)
    alone = [torch.cat(parts, 1) for parts in zip(*(run_amg(made, toy, x) for x in XS.split(1)),
                                                  strict=True)]  # fmt: skip
    estimates, similarities, gates = together
    torch.testing.assert_close(estimates, alone[0])
    torch.testing.assert_close(similarities, alone[1], equal_nan=True)
    assert torch.equal(gates, alone[2])
    # the case is worth testing: gates of one batch differ, and so do the steps they are looked at
    assert (gates.any(1) & ~gates.all(1)).any()
    looked = ~similarities.isnan()
    assert not looked[:2].any()
    assert looked[2].all()
    assert (looked[3:].any(1) & ~looked[3:].all(1)).any()
    # an open gate is looked at in the evaluation after
    assert looked[1:][gates[:-1]].all()


def test_what_is_not_compared_is_classifier_free_guidance():
    toy = Toy()
    always = AntiMemorization(toy, toy, lambda_min=-1.0, lambda_max=-1.0)
    later = AntiMemorization(toy, toy, lambda_min=-1.0, lambda_max=-1.0, start=Progress(0.5))
    for k, ratio in enumerate(RATIOS):
        step = toy.step(XS * (1 + ratio), ratio)
        step = replace(step, progress=k / len(RATIOS))
        expected = (ClassifierFree() if k < 4 else always)(step).x0(step)
        assert torch.equal(later(step).x0(step), expected)


def test_a_plain_number_is_a_share_of_the_schedule():
    toy = Toy()
    assert AntiMemorization(toy, toy, start=0.5).start == Progress(0.5)


@pytest.mark.parametrize("every", [0, -1, 1.5])
def test_a_number_of_evaluations_below_one_is_refused(every):
    toy = Toy()
    with pytest.raises(BadSetting, match="expected every, a number"):
        AntiMemorization(toy, toy, every=every)


class Others:
    """An index whose clips come so near to each other."""

    def __init__(self, others):
        self.others = others

    def nearest_others(self):
        return self.others


class TestWhatIsReadOffAnIndex:
    unrelated = torch.tanh(torch.distributions.Normal(1.1, 0.3).icdf(torch.arange(1, 2000) / 2000))

    def test_it_is_the_quantile_of_unrelated_sound(self):
        for share in (0.25, 0.5, 0.9, 0.95):
            (found,) = read_off(Others(self.unrelated), share)
            assert found == pytest.approx(torch.quantile(self.unrelated, share).item(), abs=2e-3)

    def test_near_duplicates_hardly_move_it(self):
        several = torch.cat([self.unrelated, torch.full((150,), 0.9985)])  # 7 %
        assert torch.quantile(several, 0.95) > 0.99
        (clean,) = read_off(Others(self.unrelated), 0.95)
        assert read_off(Others(several), 0.95) == pytest.approx([clean], abs=1e-2)

    def test_an_exact_copy_is_above_it(self):
        assert read_off(Others(torch.ones(10)), 0.95)[0] < 1
