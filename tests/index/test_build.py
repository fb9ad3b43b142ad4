from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from support.sounds import LENGTH, RATE, bands, sounds
from torch import Tensor

from anechoic import TrainingIndex, audio
from anechoic.embedders import embedder
from anechoic.errors import BadAudio, BadCaptions, BadSetting, IndexMismatch, OutputExists
from anechoic.index import Clip, Sound, manifest
from anechoic.types import Embedder


@pytest.fixture(scope="module")
def index() -> TrainingIndex:
    return TrainingIndex.build(sounds(), embedder("magmel"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three clips in an audiofolder with a metadata.csv."""
    clips = tmp_path / "clips"
    for i, name in enumerate(["a.wav", "b.flac", "deep/c.ogg"]):
        audio.write(clips / name, bands(i), RATE)
    (clips / "metadata.csv").write_text(
        'file_name,text,licence\na.wav,a take,CC0-1.0\nb.flac,"b, a take",\ndeep/c.ogg,c take,MIT\n'
    )
    return clips


# ------------------------------------------------------------------------------- building


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this needs a GPU")
def test_an_index_built_on_a_gpu_is_that_of_the_processor(folder: Path, tmp_path: Path) -> None:
    from anechoic.index.build import Work, build
    from anechoic.index.embedding import Windows
    from anechoic.index.manifest import About
    from anechoic.index.sources.opening import open_source

    made = embedder("magmel")
    for device in ("cpu", "cuda"):
        work = Work(str(tmp_path / device), lambda: made, Windows(), device=device)
        build(open_source(folder), work, About(made.name, made.sample_rate))
    one, other = (TrainingIndex.load(tmp_path / device) for device in ("cpu", "cuda"))
    rows = torch.arange(3)
    torch.testing.assert_close(other.vectors(rows), one.vectors(rows), atol=1e-4, rtol=0)


def test_each_clip_finds_itself(index: TrainingIndex) -> None:
    wav = torch.stack([sound.wav for sound in sounds()])
    found = index.search(index.project(embedder("magmel")(wav, RATE)))
    assert found.rows[:, 0].tolist() == list(range(12))
    assert found.scores.min() > 0.9999
    assert index.captions[3] == "take number 3"


def test_a_folder_gives_the_index_of_its_sounds_in_memory(folder: Path) -> None:
    index = TrainingIndex.build(folder, embedder("magmel"))
    arrays = [
        Sound(name, "", *audio.read(folder / name)) for name in ("a.wav", "b.flac", "deep/c.ogg")
    ]
    again = TrainingIndex.build(iter(arrays), embedder("magmel"))
    assert torch.equal(index.embeddings, again.embeddings)
    assert index.captions == ["a take", "b, a take", "c take"]
    assert index.clips[0] == Clip("a.wav", "a take", "a.wav", 0.0, 1.024, {"licence": "CC0-1.0"})
    assert index.clips[1].info == {}
    assert index.file(2) == folder / "deep/c.ogg"


def test_progress_counts_every_clip() -> None:
    seen: list[tuple[int, int | None]] = []
    TrainingIndex.build(sounds(3), embedder("magmel"), progress=lambda *done: seen.append(done))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_windowed_index_has_a_row_for_each_window_and_none_for_silence() -> None:
    wav = torch.cat([bands(0), torch.zeros(1, 2 * LENGTH), bands(1)], 1)
    index = TrainingIndex.build(
        [Sound("long", "long one", wav, RATE)], embedder("magmel"), window_s=1.024
    )
    assert [(clip.id, clip.start_s) for clip in index.clips] == [("long", 0.0), ("long", 3.072)]
    assert (index.window_s, index.hop_s) == (1.024, 1.024)


def test_clips_of_different_length_and_rate_are_embedded_as_if_alone() -> None:
    mixed = [replace(s, wav=s.wav[:, : 9000 + 3000 * (i % 3)]) for i, s in enumerate(sounds(6))]
    mixed[4] = replace(mixed[4], sample_rate=8000, wav=mixed[4].wav[:, :8000])
    index = TrainingIndex.build(mixed, embedder("magmel"))
    for row, sound in enumerate(mixed):
        alone = embedder("magmel")(sound.wav[None], sound.sample_rate)[0]
        assert torch.allclose(index.embeddings[row], alone, atol=1e-6)  # sums of another batch


def test_what_an_embedder_would_not_hear_is_not_dropped_in_silence() -> None:
    long = Sound("long", "long", bands(0, 3 * LENGTH), RATE)
    with pytest.raises(BadSetting, match=r"lasts 3\.072 s.*'--window 1\.024 --hop 0\.512'"):
        TrainingIndex.build([long], embedder("magmel"))


@pytest.mark.parametrize(
    ("clips", "options", "error", "complaint"),
    [
        ([], {}, IndexMismatch, "at least one clip"),
        (sounds(1) * 2, {}, BadSetting, "two clips have the id 'clip0'"),
        ([replace(sounds(1)[0], wav=torch.zeros(1, 99))], {}, BadAudio, "'clip0' is silent"),
        ([replace(sounds(1)[0], wav=bands(0) * torch.nan)], {}, BadAudio, "'clip0' has .* NaN"),
        (sounds(1), {"hop_s": 1.0}, BadSetting, "needs a window"),
        (sounds(1), {"captions": "x.csv"}, BadSetting, "belong to a folder"),
        (sounds(1), {}, IndexMismatch, "only be indexed uncentred"),
    ],
)
def test_clips_that_cannot_be_indexed_are_refused(
    clips: list[Sound], options: dict[str, Any], error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        TrainingIndex.build(clips, embedder("magmel"), **options)


# ------------------------------------------------------------------------------- captions


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("columns", [("file_name", "text"), ("path", "caption"), ("audio", "text")])
def test_captions_of_every_format_and_column_name_are_read(
    folder: Path, suffix: str, columns: tuple[str, str]
) -> None:
    names = ["a.wav", "b.flac", "deep/c.ogg"]
    rows = [dict(zip(columns, (name, f"ein «{name}»"), strict=True)) for name in names]
    path = folder.parent / f"captions{suffix}"
    if suffix == ".csv":
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    index = TrainingIndex.build(folder, embedder("magmel"), captions=path)
    assert index.captions == [f"ein «{name}»" for name in names]


GOOD = "file,caption\na.wav,a\nb.flac,b\ndeep/c.ogg,c\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (GOOD + "x.wav,x\ny.wav,y\nz.wav,z\nw.wav,w\n", r"\(4 .*no such file.*'z.wav' and 1 more"),
        ("file,caption\na.wav,a\n", r"\(2 in all\): no line for the clips 'b.flac', 'deep/c.ogg'"),
        (GOOD.replace(",b", ","), r"\(1 in all\): no caption for 'b.flac'"),
        (GOOD + "a.wav,again\n", r"more than one line for 'a.wav'"),
        (GOOD.replace("file", "clip"), "'clip', 'caption'; expected one called 'file_name'"),
        (GOOD.replace("caption", "words"), "expected one called 'caption' or 'text'"),
        (GOOD.replace("wav,a", "wav,a, or b"), "line 2: expected 2 columns"),
        ("file,caption\n", "have no lines"),
        ("", "have no lines"),
        (GOOD.replace(",c", ",caf\udce9"), "not UTF-8 .byte 0xe9"),
    ],
)  # fmt: skip
def test_captions_that_do_not_fit_are_refused(folder: Path, text: str, complaint: str) -> None:
    path = folder.parent / "captions.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadCaptions, match=complaint):
        TrainingIndex.build(folder, embedder("magmel"), captions=path)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("none.csv", None, "the file of captions .* does not exist"),
        ("captions.txt", b"", r"expected captions in a \.csv, \.jsonl or \.parquet file"),
        ("captions.jsonl", b'{"file": "a.wav",', "line 1 is not JSON"),
        ("captions.jsonl", b"[1]", "line 1 is not a JSON object"),
        ("captions.parquet", b"PAR1", "not a Parquet file"),
    ],
)
def test_caption_files_that_are_none_are_refused(
    folder: Path, name: str, content: bytes | None, complaint: str
) -> None:
    path = folder.parent / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadCaptions, match=complaint):
        TrainingIndex.build(folder, embedder("magmel"), captions=path)


def test_a_folder_without_captions_or_clips_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "metadata.csv").unlink()
    with pytest.raises(BadCaptions, match="--captions FILE"):
        TrainingIndex.build(folder, embedder("magmel"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadAudio, match="no sound files"):
        TrainingIndex.build(tmp_path / "empty", embedder("magmel"))
    with pytest.raises(BadAudio, match="expected a folder"):
        TrainingIndex.build(tmp_path / "nowhere", embedder("magmel"))


def test_one_bad_file_fails_the_build_and_is_named(folder: Path) -> None:
    (folder / "b.flac").write_bytes(b"no sound at all")
    with pytest.raises(BadAudio, match=r"b\.flac"):
        TrainingIndex.build(folder, embedder("magmel"))


# -------------------------------------------------------------------------------- storage


def test_what_is_saved_is_loaded(index: TrainingIndex, tmp_path: Path) -> None:
    index.thresholds["copy"] = 0.9
    loaded = TrainingIndex.load(index.save(tmp_path / "some/new/sao"), embedder("magmel"))
    assert torch.equal(loaded.embeddings, index.embeddings)
    assert torch.equal(loaded.vectors(torch.arange(12)), index.vectors(torch.arange(12)))
    assert list(loaded.clips) == list(index.clips)
    assert loaded.thresholds == {"copy": 0.9}
    assert (loaded.name, loaded.embedder_name, loaded.centred) == ("sao", "magmel", True)
    assert [p.name for p in (tmp_path / "some/new").iterdir()] == ["sao"]


def test_the_same_index_is_saved_as_the_same_bytes(index: TrainingIndex, tmp_path: Path) -> None:
    first, second = (index.save(tmp_path / name) for name in "ab")
    for name in ("manifest.json", "shards/00000.parquet"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_the_manifest_has_the_hash_of_what_lies_beside_it(
    index: TrainingIndex, tmp_path: Path
) -> None:
    folder = index.save(tmp_path / "i")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [manifest[name] for name in ("format", "rows", "clips", "dim")] == [2, 12, 12, 2048]
    (shard,) = manifest["shards"]
    content = (folder / "shards" / f"{shard['name']}.parquet").read_bytes()
    assert shard["sha256"] == hashlib.sha256(content).hexdigest()
    assert shard["bytes"] == len(content)


def test_half_precision_halves_the_file_and_moves_scores_by_under_a_thousandth(
    index: TrainingIndex, tmp_path: Path
) -> None:
    full = index.save(tmp_path / "full")
    half = index.save(tmp_path / "half", dtype="float16")
    sizes = [(f / "shards/00000.parquet").stat().st_size for f in (full, half)]
    assert sizes[1] < 0.52 * sizes[0]
    loaded = TrainingIndex.load(half)
    query = index.embeddings
    expected = index.search(index.project(query), 12)
    found = loaded.search(loaded.project(query), 12)
    assert torch.allclose(found.scores, expected.scores, atol=1e-3)


def test_an_existing_output_is_kept(index: TrainingIndex, tmp_path: Path) -> None:
    folder = index.save(tmp_path / "i")
    with pytest.raises(OutputExists, match="exists already"):
        index.save(folder)
    assert index.save(folder, overwrite=True) == folder
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_is_no_index_is_never_overwritten(
    index: TrainingIndex, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(OutputExists, match="is not an index"):
        index.save(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").exists()


SHARD = "shards/00000.parquet"


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _edit(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda f: _edit(f, format=3), "has format 3.*upgrade anechoic"),
        (lambda f: _edit(f, format=1), "has format 1.*rebuild it"),
        (lambda f: _edit(f, format="x"), "has no format"),
        (lambda f: _edit(f, rows=11), r"edited \(manifest.json is not what was written\)"),
        (lambda f: _edit(f, mean=None), "manifest.json is not what was written"),
        (lambda f: _edit(f, sha256=None), "manifest.json is not what was written"),
        (lambda f: (f / "manifest.json").write_text("{"), "is not JSON"),
        (lambda f: (f / "manifest.json").unlink(), "does not exist"),
        (lambda f: (f / SHARD).unlink(), "00000.parquet is missing"),
        (lambda f: (f / SHARD).write_bytes((f / SHARD).read_bytes()[:-9]), "is cut off"),
        (lambda f: _flip(f / SHARD), "is not the file that was written"),
    ],
)
def test_an_index_that_is_not_what_was_written_is_refused(
    index: TrainingIndex, tmp_path: Path, change: Any, complaint: str
) -> None:
    folder = index.save(tmp_path / "i")
    change(folder)
    with pytest.raises(IndexMismatch, match=complaint):
        TrainingIndex.load(folder)


@dataclass
class Other(Embedder):
    """An embedder by its papers only."""

    name: str
    dim: int
    sample_rate: int = 16_000
    revision: str | None = None

    def __call__(self, wav: Tensor, sample_rate: int) -> Tensor:
        return torch.nn.functional.normalize(wav.mean(1)[:, : self.dim], dim=1)


def test_an_object_that_lacks_a_part_of_an_embedder_is_refused_in_one_sentence() -> None:
    class Bare:
        name, dim, sample_rate = "bare", 2, 8000

    index = TrainingIndex.from_embeddings(torch.eye(2), embedder_name="bare")
    for use in (index.check_embedder, lambda bare: TrainingIndex.build(sounds(1), bare)):
        with pytest.raises(BadSetting, match=r"got Bare without seconds, revision; inherit"):
            use(Bare())


def test_another_embedder_is_refused_with_the_mend() -> None:
    index = TrainingIndex.from_embeddings(torch.eye(512)[:3], embedder_name="clap")
    index.name = "sao"
    with pytest.raises(IndexMismatch) as error:
        index.check_embedder(Other("mel", 128))
    assert str(error.value) == (
        "index 'sao' was built with 'clap' (512-d) but 'mel' (128-d) was given; rebuild it with "
        "'anechoic index build --embedder mel'"
    )


def test_weights_are_known_by_their_revision_not_by_their_folder() -> None:
    built = TrainingIndex.build(sounds(3), Other("clap:/a", 64, revision="f00"))
    built.check_embedder(Other("clap:/b", 64, revision="f00"))
    for other in (
        Other("clap:/a", 64, revision="bad"),
        Other("clap:/b", 64),
        Other("mel:/a", 64, revision="f00"),
    ):
        with pytest.raises(IndexMismatch):
            built.check_embedder(other)


def test_an_embedder_of_the_wrong_shape_is_refused() -> None:
    liar = Other("liar", 64)
    liar.dim = 10**6  # it gives as many as there are samples
    with pytest.raises(IndexMismatch, match=r"got \[1, 16384\]; fix the embedder"):
        TrainingIndex.build(sounds(1), liar)


@pytest.mark.parametrize(
    "change",
    [
        {"dim": "many"},
        {"dim": -1},
        {"shards": 5},
        {"shards": [5]},
        {"shards": [{"name": "00000"}]},
        {"about": []},
        {"about": {"embedder_name": 7, "sample_rate": 16000}},
        {"mean": "low"},
        {"mean": [0.0]},
        {"plan": None},
    ],
)
def test_a_manifest_of_other_types_is_refused_although_its_hash_fits(
    index: TrainingIndex, tmp_path: Path, change: dict[str, Any]
) -> None:
    file = index.save(tmp_path / "i") / "manifest.json"
    told = {**json.loads(file.read_text()), **change}
    told.pop("sha256")
    file.write_text(json.dumps({**told, "sha256": manifest.hash_of(told)}))
    with pytest.raises(IndexMismatch, match=r"manifest\.json.*(another content|cannot be)"):
        TrainingIndex.load(tmp_path / "i")


def test_an_index_of_a_folder_whose_name_is_not_utf8_can_be_opened(
    index: TrainingIndex, tmp_path: Path
) -> None:
    folder = index.save(tmp_path / "i")
    told = json.loads((folder / "manifest.json").read_text())
    told["about"]["clips_folder"] = "/clips/caf\udce9"
    told.pop("sha256")
    told["sha256"] = manifest.hash_of(told)
    (folder / "manifest.json").write_text(json.dumps(told))
    assert TrainingIndex.load(folder).clips == index.clips


@pytest.mark.parametrize("id", ["\ud800", "caf\udce9", 5])
def test_clips_whose_ids_are_not_text_cannot_be_saved(tmp_path: Path, id: Any) -> None:
    sound = [Sound(one, "a", bands(seed), RATE) for seed, one in enumerate((id, "b"))]
    made = TrainingIndex.build(sound, embedder("magmel"))
    with pytest.raises(BadCaptions, match="cannot be stored"):
        made.save(tmp_path / "i")
