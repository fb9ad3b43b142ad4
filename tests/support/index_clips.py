"""Tiny training clips of every kind that an index is built from."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from anechoic.index.sources.protocol import Source

RATE = 16_000


def sound(seed: int, suffix: str = "wav") -> bytes:
    wav = 0.1 * np.random.default_rng(seed).standard_normal((1600, 2))
    file = io.BytesIO()
    soundfile.write(file, wav, RATE, format=suffix.upper())
    return file.getvalue()


SOUNDS = [sound(seed) for seed in range(6)]


def pack(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def table(path: Path, columns: dict[str, Any], rows_in_group: int = 4, **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = pa.table(columns).replace_schema_metadata(metadata)
    pq.write_table(made, path, row_group_size=rows_in_group)
    return path


def embeddings(count: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    emb = np.random.default_rng(seed).standard_normal((count, dim))
    return (emb / np.linalg.norm(emb, axis=1, keepdims=True)).astype(np.float32)


def fixed(emb: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(emb.ravel()), emb.shape[1])


def amg(path: Path, entries: dict[str, Any]) -> Path:
    path.write_text(json.dumps(entries))
    return path


def entry(emb: np.ndarray, prompt: str = "a drum loop", **conditioning: Any) -> dict[str, Any]:
    times = {"seconds_start": 0.0, "seconds_total": 10.0}
    return {
        "embedding": emb.tolist(),
        "conditioning": {"prompt": prompt, **times, **conditioning},
    }


def clips_of(root: Path) -> Path:
    """Six sounds in a folder, with captions."""
    clips = root / "clips"
    (clips / "deep").mkdir(parents=True)
    names = [f"{i}.wav" for i in range(5)] + ["deep/5.wav"]
    for name, content in zip(names, SOUNDS, strict=True):
        (clips / name).write_bytes(content)
    lines = [f"{name},take {i},id{i},MIT\n" for i, name in enumerate(names)]
    (clips / "metadata.csv").write_text("file_name,text,id,licence\n" + "".join(lines))
    return clips


def tars_of(root: Path) -> Path:
    """Six samples in two tars."""
    for shard in range(2):
        files: dict[str, bytes] = {}
        for i in range(3 * shard, 3 * shard + 3):
            files[f"./s/{i}.wav"] = SOUNDS[i]
            files[f"./s/{i}.json"] = json.dumps({"caption": f"take {i}", "id": i}).encode()
        pack(root / f"tars/clips-{shard}.tar", files)
    return root / "tars"


def parquet_of(root: Path) -> Path:
    """Ten embeddings in two files of several row groups."""
    for part, (first, last) in enumerate([(0, 6), (6, 10)]):
        columns = {
            "id": [f"id{i}" for i in range(first, last)],
            "caption": [f"take {i}" for i in range(first, last)],
            "embedding": fixed(embeddings(10)[first:last]),
        }
        table(root / f"emb/{part}.parquet", columns, rows_in_group=2, embedder="clap")
    return root / "emb"


def amg_of(root: Path) -> Path:
    entries = {str(i): entry(emb, f"take {i}") for i, emb in enumerate(embeddings(5))}
    return amg(root / "amg.json", entries)


MAKERS = {"folder": clips_of, "tars": tars_of, "parquet": parquet_of, "amg": amg_of}


def identity(source: Source) -> list[tuple[str, str]]:
    """What a build tells the content of a source by."""
    return [(unit.key, unit.identity) for unit in source.units()]


def read_unit(unit: Any, start: int = 0) -> list[tuple]:
    """All that a unit tells, comparable."""
    if hasattr(unit, "rows"):
        return [(clip, vector.tobytes()) for clip, vector in unit.rows(start)]
    items = list(unit.items(start))
    told = [(item.id, item.caption, item.path, dict(item.info)) for item in items]
    return [
        (about, item.read()[0].numpy().tobytes()) for about, item in zip(told, items, strict=True)
    ]
