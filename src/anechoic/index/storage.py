"""An index on disk: one folder of three files.

- `manifest.json`: format, embedder, counts, and the sha256 of all three;
- `embeddings.npy`: [n, d], uncentred, float32 or float16;
- `clips.parquet`: id, caption, path, start_s, seconds and info of each row.

Whatever serves a search is derived from these when the index is loaded.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anechoic import __version__
from anechoic.errors import BadSetting, IndexMismatch, OutputExists
from anechoic.index.clips import Clip

FORMAT = 1
MANIFEST, EMBEDDINGS, CLIPS = "manifest.json", "embeddings.npy", "clips.parquet"
ABOUT = (
    "embedder_name",
    "sample_rate",
    "revision",
    "centred",
    "window_s",
    "hop_s",
    "model",
    "thresholds",
    "clips_folder",
)


def save(
    folder: Path,
    embeddings: Tensor,
    clips: Sequence[Clip],
    about: dict[str, Any],
    *,
    overwrite: bool,
    dtype: str,
) -> Path:
    """Write an index under a temporary name beside `folder`, then rename it."""
    if dtype not in ("float32", "float16"):
        raise BadSetting(f"embeddings cannot be stored as '{dtype}'; use float32 or float16")
    require_free(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        part = Path(scratch, "new")
        part.mkdir()
        np.save(part / EMBEDDINGS, embeddings.cpu().numpy().astype(dtype))
        _write_clips(part / CLIPS, clips)
        manifest = {
            "format": FORMAT,
            "anechoic": __version__,
            "count": len(clips),
            "dim": embeddings.shape[1],
            **about,
        }
        hashes = {name: _sha256(part / name) for name in (EMBEDDINGS, CLIPS)}
        manifest["sha256"] = {MANIFEST: _sha256_of(manifest), **hashes}
        (part / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
        if folder.exists():
            folder.rename(Path(scratch, "old"))
        part.rename(folder)
    return folder


def require_free(folder: Path, overwrite: bool = False) -> None:
    """Refuse to write where something is that may not be replaced.

    Raises:
        OutputExists: `folder` is there, and `overwrite` is off or it is no index.
    """
    if not folder.exists():
        return
    if not overwrite:
        raise OutputExists(f"'{folder}' exists already; name another output or overwrite it")
    if not (folder / MANIFEST).is_file():
        raise OutputExists(f"'{folder}' is no index and is not replaced; name another output")


def load(folder: Path) -> tuple[Tensor, list[Clip], dict[str, Any]]:
    """Read an index.

    Returns:
        Unit-norm embeddings [n, d] in float32, the clips, and the fields of `ABOUT`.

    Raises:
        IndexMismatch: no index, a newer format, or files that are not what was written.
    """
    manifest, hashes = _manifest(folder)
    for name in (EMBEDDINGS, CLIPS):
        if not (folder / name).is_file():
            raise _damaged(folder, f"{name} is missing")
        if _sha256(folder / name) != hashes[name]:
            raise _damaged(folder, f"{name} is not the file that was written")
    stored = np.load(folder / EMBEDDINGS, allow_pickle=False)
    clips = _read_clips(folder / CLIPS)
    embeddings = torch.from_numpy(stored.astype(np.float32))
    if stored.dtype == np.float16:  # rounding took the norm off by some 1e-4
        embeddings = F.normalize(embeddings, dim=-1)
    return embeddings, clips, {name: manifest[name] for name in ABOUT}


def _manifest(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The manifest as it was written, and the hashes of the files."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise IndexMismatch(
            f"there is no index '{folder}' (no {MANIFEST}); build one with 'anechoic index build'"
        ) from None
    except ValueError as error:
        raise _damaged(folder, f"{MANIFEST} is no JSON") from error
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if not isinstance(version, int) or version < 1:
        raise _damaged(folder, f"{MANIFEST} tells no format")
    if version > FORMAT:
        raise IndexMismatch(
            f"index '{folder}' has format {version}, and anechoic {__version__} reads up to "
            f"{FORMAT}; upgrade anechoic, or rebuild the index"
        )
    hashes = manifest.pop("sha256", None)
    if not isinstance(hashes, dict) or hashes.get(MANIFEST) != _sha256_of(manifest):
        raise _damaged(folder, f"{MANIFEST} is not what was written")
    return manifest, hashes


def _damaged(folder: Path, what: str) -> IndexMismatch:
    return IndexMismatch(
        f"index '{folder}' is damaged or was edited ({what}); restore it, or rebuild it with "
        "'anechoic index build'"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of(manifest: dict[str, Any]) -> str:
    """The hash of a manifest without its hashes, however it is laid out."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _write_clips(path: Path, clips: Sequence[Clip]) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    schema = pa.schema(
        [
            ("id", pa.string()),
            ("caption", pa.string()),
            ("path", pa.string()),
            ("start_s", pa.float64()),
            ("seconds", pa.float64()),
            ("info", pa.map_(pa.string(), pa.string())),
        ]
    )
    rows = [{**asdict(clip), "info": list(clip.info.items())} for clip in clips]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema), path)


def _read_clips(path: Path) -> list[Clip]:
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(path).to_pylist()
    return [Clip(**{**row, "info": dict(row["info"])}) for row in rows]
