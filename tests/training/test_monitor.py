"""The monitor over a real training: a tiny Stable Audio learns three sounds by heart."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from support.monitored import CLIPS, RATE, Sounding, make, noise, one_of_two, verifier
from support.pipelines import CAPTIONS, make_pipe

from anechoic.diffusers.pipelines import sound_seconds
from anechoic.errors import BadSetting
from anechoic.training import FromPipeline, Monitor, Observation, Panel, Sketches, averaged
from anechoic.training.observation import LOG


def test_it_stops_once_the_lower_end_of_the_interval_is_over_the_limit(tmp_path, capsys) -> None:
    model = Sounding(CLIPS)
    monitor = make(tmp_path, model, limit=0.25)
    assert [monitor(step) for step in (1, 2, 3, 4)] == [False] * 4
    model.learned = {CAPTIONS[0]}
    assert not monitor(6)  # one of three: it may be as few as 1 %
    model.learned = set(CLIPS)
    assert not monitor(7)  # it is not looked at
    assert monitor(8)
    assert monitor(9)
    assert "reached the limit of 25% at step 8" in capsys.readouterr().out
    shares = [found.copies().value for found in monitor.observations]
    assert shares == [0, 0, pytest.approx(1 / 3), 1]
    assert monitor.observations[-1].copies(trained=False).value == 0


def test_it_warns_and_trains_on(tmp_path, capsys) -> None:
    model = Sounding(CLIPS)
    model.learned = set(CLIPS)
    monitor = make(tmp_path, model, act="warn")
    assert not monitor(2)
    assert "has reached the limit" in capsys.readouterr().out


def test_it_goes_on_from_its_log_and_back_to_a_checkpoint(tmp_path) -> None:
    model = Sounding(CLIPS)
    before = make(tmp_path, model)
    before(2), before(4)
    model.learned = set(CLIPS)
    assert before(6)
    after = make(tmp_path, model)
    assert after.stopped
    assert after.observations == before.observations
    model.learned = set()
    assert not after(4)  # from a checkpoint after step 3
    assert [found.step for found in after.observations] == [2, 4]
    lines = (tmp_path / "m" / LOG).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines[1:]] == [2, 4]
    with pytest.raises(BadSetting, match="another panel, index or rule"):
        Monitor(model, before.verifier, Panel(tuple(CLIPS)), tmp_path / "m", track=[])


def test_the_trainers_random_numbers_go_on_as_without_it(tmp_path) -> None:
    def draws(watch):
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        first = torch.rand(1)
        watch(2)
        return [first.item(), torch.rand(1).item(), np.random.rand(), random.random()]

    monitor = make(tmp_path)
    assert draws(lambda step: None) == draws(monitor)
    assert monitor.generate.calls == 1


def test_it_keeps_the_worst_sounds_and_tells_the_trackers(tmp_path) -> None:
    seen = []
    model = Sounding(CLIPS)
    model.learned = {CAPTIONS[1]}
    monitor = make(tmp_path, model, keep=2, track=[lambda found, folder: seen.append(found)],
                   scorer=lambda wav, rate, prompt: len(prompt) / 100)  # fmt: skip
    found = monitor.look(5)
    assert seen == [found]
    assert found.worst == ("step-0000005-1.wav", "step-0000005-2.wav")
    from anechoic import audio

    kept, rate = audio.read(tmp_path / "m" / found.worst[0])
    torch.testing.assert_close(kept, CLIPS[CAPTIONS[1]], atol=1e-3, rtol=0)
    assert rate == RATE
    assert found.mean("adherence", trained=False) == pytest.approx((16 + 6) / 200)
    assert set(found.scalars()) >= {"copies/training_low", "distance/ordinary", "time_share"}
    assert "1 copy of 3 from training captions (1% to 91%)" in found.sentence()


def test_a_look_waits_until_its_share_of_the_time_is_free(tmp_path, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr("anechoic.training.monitor.time.monotonic", lambda: now[0])

    class Slow(Sounding):
        def __call__(self, prompts, seeds):
            now[0] += 3.0
            return super().__call__(prompts, seeds)

    monitor = make(tmp_path, Slow(CLIPS), every=1, share=0.03)
    for step in range(1, 1001):
        now[0] += 1.0
        monitor(step)
    assert [found.step for found in monitor.observations][:3] == [1, 197, 294]
    assert 0.025 < monitor.observations[-1].share <= 0.03


def test_a_look_waits_until_there_is_room_for_the_costliest_one_so_far(
    tmp_path, monkeypatch
) -> None:
    now, costs = [0.0], iter([1.0, 9.0, 1.0, 9.0, 1.0, 9.0, 1.0, 9.0])
    monkeypatch.setattr("anechoic.training.monitor.time.monotonic", lambda: now[0])

    class Uneven(Sounding):
        def __call__(self, prompts, seeds):
            now[0] += next(costs)
            return super().__call__(prompts, seeds)

    monitor = make(tmp_path, Uneven(CLIPS), every=1, share=0.05)
    for step in range(1, 800):
        now[0] += 1.0
        monitor(step)
    assert len(monitor.observations) > 3
    assert all(found.share <= 0.05 for found in monitor.observations[2:])


def test_the_first_of_two_processes_generates_and_both_stop(tmp_path) -> None:
    context = torch.multiprocessing.get_context("spawn")
    answers = context.Queue()
    started = [
        context.Process(target=one_of_two, args=(rank, tmp_path, tmp_path / "rendezvous", answers))
        for rank in (0, 1)
    ]
    for one in started:
        one.start()
    found = sorted(answers.get(timeout=120) for _ in started)
    for one in started:
        one.join(timeout=60)
    assert found == [(0, [False, True, False], 1), (1, [False, True, False], 0)]


def test_a_diverged_model_is_not_judged(tmp_path) -> None:
    def diverged(prompts, seeds):
        return Sketches([torch.full((1, 64), torch.nan)] * len(prompts), RATE)

    found = make(tmp_path, diverged).look(1)
    assert found.copies() is None
    assert "3 not judged" in found.sentence()


@pytest.mark.parametrize("bad", [{"every": 0}, {"limit": 0.0}, {"share": 2.0}, {"act": "cry"}])
def test_bad_settings_are_refused(tmp_path, bad) -> None:
    with pytest.raises(BadSetting, match="expected"):
        make(tmp_path, **bad)


def test_an_index_without_a_rule_is_refused(tmp_path) -> None:
    unruled = verifier(CLIPS.values(), threshold=None)
    with pytest.raises(BadSetting, match="calibrate it"):
        Monitor(Sounding(CLIPS), unruled, Panel(tuple(CLIPS)), tmp_path)


def test_panels() -> None:
    index = verifier(CLIPS.values()).index
    assert Panel.of(index, count=2) == Panel.of(index, count=2)
    assert len(Panel.of(index, ["a bell"], seeds=(0, 1))) == 8
    with pytest.raises(BadSetting, match="is a caption of index"):
        Panel.of(index, [CAPTIONS[0]])
    with pytest.raises(BadSetting, match="two captions or more"):
        Panel(("a dog",))
    with pytest.raises(BadSetting, match="twice"):
        Panel(("a dog", "a cat"), ("a dog",))
    with pytest.raises(BadSetting, match="empty"):
        Panel(("a dog", " "))


def test_the_log_is_refused_where_it_is_damaged(tmp_path) -> None:
    make(tmp_path)(2)
    log = tmp_path / "m" / LOG
    log.write_text(log.read_text().replace('"no copy"', '"maybe"'))
    with pytest.raises(BadSetting, match="another content than it should"):
        make(tmp_path)


# --------------------------------------------------------------------- with a real pipeline


def train(pipe, watch=lambda step: False, steps=6):
    """A few steps on noise, with dropout's random numbers; the network's weights."""
    network = pipe.transformer.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    torch.manual_seed(5)
    arguments = {
        "encoder_hidden_states": torch.randn(2, 7, 16), "global_hidden_states":
        torch.randn(2, 1, 32), "rotary_embedding": None, "return_dict": False,
    }  # fmt: skip
    for step in range(1, steps + 1):
        x = torch.nn.functional.dropout(torch.randn(2, 3, 16), 0.1)
        loss = (network(x, torch.rand(2), **arguments)[0] - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if watch(step):
            break
    return [weight.detach().clone() for weight in network.parameters()]


def stereo_verifier(pipe):
    sounds = [noise(i, 2) for i in range(3)]
    assert sound_seconds(pipe) == 16.0
    return verifier(sounds)


def test_the_weights_are_bit_for_bit_those_without_a_monitor(tmp_path) -> None:
    plain = train(make_pipe())
    pipe = make_pipe()
    scheduler = pipe.scheduler
    panel = Panel(tuple(CAPTIONS[:2]), (CAPTIONS[3],))
    sketch = FromPipeline(pipe, steps=2)
    monitor = Monitor(
        sketch, stereo_verifier(pipe), panel, tmp_path, every=2, share=None, limit=1, track=[]
    )
    watched = train(pipe, monitor)
    assert len(monitor.observations) == 3
    assert all(sound.distance > 0 for sound in monitor.observations[0].sounds)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert pipe.transformer.training
    assert not pipe.vae.training
    assert pipe.scheduler is scheduler
    again = Monitor(sketch, monitor.verifier, panel, tmp_path / "again", track=[]).look(6)
    assert again.sounds == monitor.observations[-1].sounds


def test_averaged_weights_are_in_place_while_it_generates(tmp_path) -> None:
    from diffusers.training_utils import EMAModel

    pipe = make_pipe()
    weights = list(pipe.transformer.parameters())
    ema = EMAModel(weights)
    average = weights[0].detach().clone()
    with torch.no_grad():
        weights[0].add_(1.0)
    there = []

    def generate(prompts, seeds):
        there.append(weights[0].detach().clone())
        return Sketches([noise(9)] * len(prompts), RATE)

    make(tmp_path, generate, weights=averaged(ema, weights)).look(1)
    torch.testing.assert_close(there[0], average)
    torch.testing.assert_close(weights[0].detach(), average + 1.0)


class Stub:
    """A store of latents with one point, which all or none of the generations are near to."""

    def __init__(self, radius):
        self.radius = radius

    def nearest(self, latents, k):
        from anechoic.types import NearLatents

        points = latents.flatten(1)
        rows = torch.zeros(len(points), 1, dtype=torch.long)
        return NearLatents(points.norm(dim=1)[:, None], rows, points, 0 * points[:, None])


def test_what_is_far_in_latents_is_not_decoded() -> None:
    pipe = make_pipe()
    plain = FromPipeline(pipe, steps=3)(CAPTIONS[:2], (0, 1))
    near = FromPipeline(pipe, steps=3, latents=Stub(1e9))(CAPTIONS[:2], (0, 1))
    far = FromPipeline(pipe, steps=3, latents=Stub(0.0))(CAPTIONS[:2], (0, 1))
    for a, b in zip(plain.sounds, near.sounds, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert far.sounds == [None, None]


def test_sounds_that_were_not_decoded_are_no_copies_and_say_so(tmp_path) -> None:
    found = make(tmp_path, lambda prompts, seeds: Sketches([None] * len(prompts), RATE)).look(1)
    assert {(sound.status, sound.far) for sound in found.sounds} == {("no copy", True)}
    assert found.worst == ()


def test_an_observation_is_read_as_it_was_written(tmp_path) -> None:
    found = make(tmp_path).look(3)
    written = json.loads(json.dumps(found.to_dict()))
    assert Observation.from_dict(written, "it") == found
