"""Latents of training clips: reduced in order, found by distance, and built like an index."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from scipy.stats import spearmanr
from support.commands import Run, exit_code
from support.pipelines import make_pipe, make_stable_diffusion

from anechoic import TrainingIndex, guard
from anechoic.diffusers.latents import LatentEncoder
from anechoic.diffusers.loading import load_pipeline
from anechoic.errors import IndexMismatch, UnsupportedPipeline
from anechoic.guidance.repellency import Repellency
from anechoic.index.latents import LatentIndex, points_of, reduced, spread, unit_rows


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3, 4), (64, 1024), (1000, 64), (64, 1000), (4, 4097), (5000,)])
def test_reduction_has_orthonormal_rows_and_spread_is_its_transpose(shape):
    latents = drawn(2, *shape).double()
    points = reduced(latents)
    assert points.shape[1] <= 4096
    steps = drawn(*points.shape, seed=1).double()
    back = spread(steps, latents)
    assert back.shape == latents.shape
    torch.testing.assert_close((points * steps).sum(), (latents * back).sum())
    torch.testing.assert_close(reduced(back), steps)
    assert (points.norm(dim=1) <= latents.flatten(1).norm(dim=1) + 1e-9).all()


def test_small_latents_are_not_reduced():
    latents = drawn(3, 128, 32)
    assert torch.equal(reduced(latents), latents.flatten(1))


def test_reduction_of_large_latents_keeps_the_order_of_their_distances():
    """Latents of Stable Audio Open's shape, correlated by .5 from one frame to the next, at forty
    distances from a clip: the ranks of the distances correlate by .99 or more, without the codec's
    own. Independent frames, which sound has not, give as much."""
    for correlation in (0.5, 0.0):
        noise = drawn(41, 64, 1024)
        for frame in range(1, 1024):
            new = (1 - correlation**2) ** 0.5 * noise[..., frame]
            noise[..., frame] = correlation * noise[..., frame - 1] + new
        share = torch.linspace(0.02, 0.98, 40)[:, None, None]
        others = (1 - share**2).sqrt() * noise[:1] + share * noise[1:]
        whole = (others - noise[:1]).flatten(1).norm(dim=1)
        few = (reduced(others) - reduced(noise[:1])).norm(dim=1)
        assert spearmanr(whole, few).statistic > 0.99


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_nearest_latents_are_those_of_a_full_comparison(dtype):
    latents = (drawn(500, 8, 16) * (0.2 + drawn(500, 1, 1, seed=1).abs())).to(dtype)
    asked = latents[::50] + 0.3 * drawn(10, 8, 16, seed=2).to(dtype)
    near = LatentIndex.of(latents).nearest(asked, 5)
    expected = (asked.flatten(1)[:, None] - latents.flatten(1)[None]).norm(dim=2)
    found = expected.topk(5, largest=False)
    assert torch.equal(near.rows, found.indices)
    torch.testing.assert_close(near.distances, found.values, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(near.centres, latents.flatten(1)[found.indices])


def test_rows_are_unit_vectors_that_hold_the_points():
    points = 2 * drawn(20, 30)
    rows = unit_rows(points)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(20))
    torch.testing.assert_close(points_of(rows), points)


@pytest.mark.parametrize("value", [10.0, torch.inf, torch.nan])
def test_what_is_no_latent_of_a_diffusion_model_is_refused(value):
    with pytest.raises(IndexMismatch, match="root mean square"):
        unit_rows(torch.full((2, 8), value))


def test_equal_latents_tell_no_radius():
    with pytest.raises(IndexMismatch, match="no radius"):
        LatentIndex.of(torch.ones(4, 8)).radius  # noqa: B018


# ------------------------------------------------------------------- stored beside an index

RATE = 250  # Hz of the model, whose 64 samples last .256 s


def write_clips(folder: Path, names: dict[str, float]) -> Path:
    """Stereo noise of so many seconds each, at another rate than the model's, and captions."""
    folder.mkdir()
    rows = ["file_name,caption"]
    for number, (name, seconds) in enumerate(names.items()):
        wav = 0.1 * np.random.default_rng(number).standard_normal((int(8000 * seconds), 2))
        soundfile.write(folder / name, wav, 8000)
        rows.append(f"{name},noise {number}")
    (folder / "metadata.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, clips, and their index with latents."""
    folder = tmp_path_factory.mktemp("latents")
    pipe = make_pipe()
    pipe.vae.register_to_config(sampling_rate=RATE)
    pipe.save_pretrained(folder / "model")
    names = {"a.wav": 0.256, "b.wav": 0.1, "c.wav": 0.6, "d.wav": 0.256}
    clips = write_clips(folder / "clips", names)
    write_clips(folder / "more", {"e.wav": 0.2})
    assert exit_code("index", "build", clips, "-o", folder / "index") == 0
    assert exit_code("index", "latents", folder / "index", clips, "--model", folder / "model") == 0
    return folder


@pytest.fixture
def index(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "index", tmp_path / "index")
    return tmp_path / "index"


@pytest.fixture(scope="module")
def pipe(made: Path):
    return load_pipeline(made / "model", "cpu")


def test_each_clip_is_found_by_its_own_latent(index: Path, made: Path, pipe) -> None:
    latents, encode = TrainingIndex.load(index).latents, LatentEncoder(pipe)
    assert latents.codec == encode.codec
    found = []
    for name in ("a.wav", "b.wav", "d.wav"):
        wav, rate = soundfile.read(made / "clips" / name, dtype="float32")
        near = latents.nearest(encode(torch.from_numpy(wav.T.copy())[None], rate), 1)
        assert near.distances.item() < 0.02 * near.points.norm()
        found.append(latents.clips[near.rows.item()].id)
    assert found == ["a.wav", "b.wav", "d.wav"]
    windows = [clip.start_s for clip in latents.clips if clip.id == "c.wav"]
    assert windows == pytest.approx([0.0, 0.128, 0.256, 0.344])


def test_a_guard_keeps_the_model_away_from_them(index: Path, pipe) -> None:
    store = TrainingIndex.load(index)
    asked = {"prompt": "a dog barks", "num_inference_steps": 3, "output_type": "pt"}

    def generate():
        return pipe(**asked, generator=torch.Generator().manual_seed(0)).audios

    with guard(pipe, Repellency(store, radius=1e-3)) as trace:
        near, free = trace, generate()
    with guard(pipe, Repellency(store, radius=50.0)) as trace:
        assert not torch.equal(generate(), free)
    assert not near.column("gate").any()
    assert trace.column("gate").any()
    assert trace.column("latent_distance").shape == (3, 1)


def test_latents_of_another_codec_are_refused(index: Path, pipe) -> None:
    method = Repellency(TrainingIndex.load(index))
    other = make_pipe(seed=1)
    with pytest.raises(IndexMismatch, match="codec"), guard(other, method):
        pass


def test_clips_are_withdrawn_from_the_latents_too(index: Path, command: Run) -> None:
    assert command("index", "remove", index, "--id", "b.wav")[0] == 0
    latents = TrainingIndex.load(index).latents
    assert {clip.id for clip in latents.clips} == {"a.wav", "c.wav", "d.wav"}


def test_latents_of_fewer_clips_than_the_index_has_are_refused(index: Path) -> None:
    assert exit_code("index", "remove", index / "latents", "--id", "b.wav") == 0
    with pytest.raises(IndexMismatch, match="not of its clips"):
        TrainingIndex.load(index).latents  # noqa: B018


def test_adding_clips_removes_the_latents_and_says_so(
    index: Path, made: Path, command: Run
) -> None:
    code, out, _ = command("index", "add", index, made / "more")
    assert code == 0
    assert "anechoic index latents" in out
    assert TrainingIndex.load(index).latents is None


def test_other_clips_than_those_of_the_index_are_refused(
    index: Path, made: Path, command: Run
) -> None:
    code, _, err = command("index", "latents", index, made / "more", "--model", made / "model")
    assert code != 0
    assert "the clips that index" in err
    assert TrainingIndex.load(index).latents is None


def test_a_damaged_latent_is_refused(index: Path) -> None:
    shard = next((index / "latents" / "shards").iterdir())
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(IndexMismatch, match="damaged"):
        TrainingIndex.load(index).latents  # noqa: B018


def test_they_are_copied_with_the_index(index: Path, tmp_path: Path, command: Run) -> None:
    assert command("index", "fetch", index, "-o", tmp_path / "copy")[0] == 0
    assert len(TrainingIndex.load(tmp_path / "copy").latents) == 7


def test_a_model_of_images_is_refused() -> None:
    with pytest.raises(UnsupportedPipeline, match="StableDiffusionPipeline"):
        LatentEncoder(make_stable_diffusion())
