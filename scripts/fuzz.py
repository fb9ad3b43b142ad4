#!/usr/bin/env python3
"""Feed malformed input to everything that reads what comes from outside, and count what happens.

    python scripts/fuzz.py 10000                 # inputs, shared out evenly
    python scripts/fuzz.py 2000 --seed 7 --only sounds indexes
    python scripts/fuzz.py 100000 --keep build/fuzz   # goes on where it was stopped

Each input is a good one with a few changes, drawn from the seed: bytes flipped, cut out, doubled,
zeroed; numbers replaced by NaN, lists, hundreds of digits; brackets nested by the thousand. It is
read in a process with limits of memory and time. Good ends are `refused`, one of anechoic's own
errors, and `accepted`. What fails is a `traceback` (any other error), a `hang`, a `crash` (the
process died), `memory`, and `silent`: accepted, although part of a sound is missing or an index
answers otherwise than before. Failing inputs are written to a folder. Exits with 1 if there are
any. The limit of time is of the processor, so that a busy machine changes nothing; what waits for
ever is stopped after two minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from io import BytesIO, StringIO
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # `support`: tiny models

MEMORY = 2 * 2**30  # bytes that an input may take, beside the libraries
SECONDS = 10  # of the processor
WAITS = 12  # times as long, by the clock
FORKED = 500  # inputs to a process, so that what they leave behind does not add up
# what most boundaries import
HEAVY = ("faiss", "pyarrow.parquet", "scipy.signal", "soundfile", "torch", "anechoic.verdict")
FAILS = ("traceback", "hang", "crash", "memory", "silent")
RATE = 8000

# ------------------------------------------------------------------------------------- changes

VALUES = (
    b"NaN", b"-Infinity", b"1e999", b"9" * 400, b"9" * 5000, b"null", b"[]", b"{}", b"true", b'""',
    b'"\\ud800"', b'"\x1b[2J"', b'"=1+1"', b"[" * 100_000, b'{"a":' * 20_000, b"-1", b"0.5",
    b'"\xff\xfe"', b"\x00", b"18446744073709551616",
)  # fmt: skip


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def flip(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _slice(content: bytes, draw: random.Random) -> slice:
    start = draw.randrange(len(content))
    return slice(start, start + draw.choice((1, 4, 16, 64, 256, 4096)))


def take_out(content: bytes, draw: random.Random) -> bytes:
    part = _slice(content, draw)
    return content[: part.start] + content[part.stop :]


def double(content: bytes, draw: random.Random) -> bytes:
    part = _slice(content, draw)
    return content[: part.stop] + content[part] + content[part.stop :]


def blank(content: bytes, draw: random.Random) -> bytes:
    part = _slice(content, draw)
    filler = draw.choice((b"\0", b"\xff", b"\x7f"))
    return content[: part.start] + filler * len(content[part]) + content[part.stop :]


def joined(content: bytes, draw: random.Random) -> bytes:
    return content + content


def replace_value(content: bytes, draw: random.Random) -> bytes:
    """One number, word or string of a text replaced by what stands for nothing good."""
    ends = [found.end() for found in re.finditer(rb'[,: \n=["]', content)]
    at = draw.choice(ends or [1])
    end = next((i for i in range(at, len(content)) if content[i : i + 1] in b',]}\n"'), at)
    return content[:at] + draw.choice(VALUES) + content[end:]


BYTES = (cut, flip, flip, take_out, double, blank)
TEXT = (*BYTES, replace_value, replace_value, replace_value)
Change = Callable[[bytes, random.Random], bytes]

# ---------------------------------------------------------------------------------- boundaries


@dataclass(frozen=True)
class Boundary:
    """What reads input from outside.

    Args:
        files: good input: folders of files by their names; one is drawn, and one file changed.
        read: reads the folder and the changed file, and returns what it made of it.
        changes: that are drawn from.
        silent: whether what was accepted should not have been, from what was read of the good
            input, what was read now, and the changes; None: whatever is accepted may be.
    """

    files: Callable[[], Sequence[Mapping[str, bytes]]]
    read: Callable[[Path, str], Any]
    changes: Sequence[Change] = TEXT
    silent: Callable[[Any, Any, Sequence[Change]], bool] | None = None


def write(files: Mapping[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def tune(number: int, seconds: float = 0.5) -> Any:
    import numpy as np

    draw, time_s = np.random.default_rng(number), np.arange(round(seconds * RATE)) / RATE
    notes = sum(np.sin(2 * np.pi * hz * time_s) for hz in draw.uniform(100, 3000, 4))
    return np.asarray(0.15 * notes * draw.uniform(0.2, 1, len(time_s)))


SOUNDS = (
    ("a.wav", "WAV", "PCM_16"), ("a.wav", "WAV", "GSM610"), ("a.wav", "WAV", "FLOAT"),
    ("a.wav", "RF64", "PCM_16"), ("a.w64", "W64", "PCM_16"), ("a.aiff", "AIFF", "PCM_24"),
    ("a.au", "AU", "PCM_16"), ("a.caf", "CAF", "PCM_16"), ("a.flac", "FLAC", "PCM_16"),
    ("a.ogg", "OGG", "VORBIS"), ("a.ogg", "OGG", "OPUS"), ("a.mp3", "MP3", "MPEG_LAYER_III"),
)  # fmt: skip


def encoded(number: int, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
    import soundfile

    made = BytesIO()
    soundfile.write(made, tune(number), RATE, format=kind, subtype=subtype)
    return made.getvalue()


def sound_files() -> list[dict[str, bytes]]:
    return [{name: encoded(0, kind, subtype)} for name, kind, subtype in SOUNDS]


def read_sound(folder: Path, name: str) -> Any:
    from anechoic import audio

    wav, sample_rate = audio.read(folder / name)
    assert wav.isfinite().all(), "sound that is not finite"
    return wav.shape[-1] / sample_rate


def is_part(good: float, now: float, changes: Sequence[Change]) -> bool:
    """A file that was cut is shorter, or of two that were joined one is heard."""
    if list(changes) == [cut]:
        return now < good
    return list(changes) == [joined] and now < 2 * good - 0.1


def captioned() -> list[dict[str, bytes]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = BytesIO()
    pq.write_table(pa.table({"file_name": ["a.wav", "b.wav"], "caption": ["low", "high"]}), table)
    lines = [
        {"file_name": "a.wav", "caption": "low", "id": 3},
        {"file_name": "b.wav", "caption": "é"},
    ]
    return [
        {"metadata.csv": b'file_name,caption,artist\na.wav,"low, soft",ann\nb.wav,high,bob\n'},
        {"metadata.jsonl": "\n".join(map(json.dumps, lines)).encode()},
        {"metadata.parquet": table.getvalue()},
    ]


def read_captions(folder: Path, name: str) -> Any:
    from anechoic.index import captions

    return [(line.file, line.caption) for line in captions.read(folder / name)]


def prompted() -> list[dict[str, bytes]]:
    return [
        {"p.txt": b"low cello note\nhigh flute\n"},
        {"p.csv": b"caption,id,group,split\nlow cello,1,memorized,tune\nflute,2,ordinary,report\n"},
        {"p.jsonl": b'{"caption": "low cello", "group": "memorized"}\n{"caption": "flute"}\n'},
    ]


def read_prompts(folder: Path, name: str) -> Any:
    from anechoic.audit import prompts

    return prompts.read_prompts(folder / name)


@cache
def built() -> dict[str, bytes]:
    """The files of an index with calibrations and latents."""
    import torch

    from anechoic import TrainingIndex, embedder
    from anechoic.detectors import Calibration, NearestStretch, calibration
    from anechoic.index import Sound
    from anechoic.index.latents import LatentEmbedder

    made = embedder("magmel")
    sounds = [
        Sound(f"c{i}", f"caption {i}", torch.tensor(tune(i), dtype=torch.float32)[None], RATE)
        for i in range(6)
    ]
    with TemporaryDirectory() as folder:
        index = TrainingIndex.build(sounds, made, model="0123456789abcdef")
        index.save(folder, overwrite=True)
        name = NearestStretch(index, made).name
        null = tuple(0.3 + 0.001 * i for i in range(120))
        calibration.write(folder, [Calibration(name, null, 0.01, seconds=0.5)])
        encoder = LatentEmbedder("toy", coded, RATE, 0.5, "a codec")
        TrainingIndex.build(sounds, encoder, centre=False).save(f"{folder}/latents")
        verdicts(Path(folder))  # what is derived when it is first searched
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def coded(wav: Any, sample_rate: int) -> Any:
    """Sound [b, c, t] as latents [b, 2, 8] of a codec that only takes means."""
    return wav.mean(1)[..., : 16 * (wav.shape[-1] // 16)].unflatten(-1, (2, 8, -1)).mean(-1)


@cache
def asked() -> Any:
    import torch

    return torch.tensor(tune(2), dtype=torch.float32)[None]


def verdicts(folder: Path, name: str = "") -> Any:
    """What an index says of one of its own clips."""
    from anechoic import Verifier

    verifier = Verifier.load(folder)
    found = verifier(asked(), RATE).to_dict()
    captions = list(verifier.index.captions)
    latents = verifier.index.latents
    near = latents and latents.nearest(coded(asked()[None], RATE), 2)
    rows = near and (near.rows.tolist(), near.distances.tolist())
    return json.dumps([found, captions, verifier.rule and verifier.rule.to_dict(), rows])


def differs(good: Any, now: Any, changes: Sequence[Change]) -> bool:
    return bool(good != now)


def certified() -> list[dict[str, bytes]]:
    """A sound, and its certificate beside it."""
    from anechoic import Verifier, audio
    from anechoic.certificate import certify

    with TemporaryDirectory() as folder:
        file, index = Path(folder) / "a.wav", Path(folder) / "i"
        write(built(), index)
        file.write_bytes(encoded(99))
        verifier = Verifier.load(index)
        beside = certify(file, verifier(*audio.read(file)), verifier.index)
        return [{path.name: path.read_bytes() for path in (file, beside)}]


def read_certificate(folder: Path, name: str) -> Any:
    from anechoic.certificate import verify

    found = verify(folder / "a.wav")
    return found.verified, found.certificate


def is_edited(good: Any, now: Any, changes: Sequence[Change]) -> bool:
    """A certificate that says something else is verified."""
    return bool(now[0] and now != good)


def planned() -> list[dict[str, bytes]]:
    text = (
        'seeds = 2\n\n[[methods]]\nname = "plain"\n\n[[methods]]\nname = "late"\n'
        'guard = "static"\nsettings = { before = -2.0, at = "LogSNR:-1.0" }\n'
    )
    return [{"plan.toml": text.encode()}]


def read_plan(folder: Path, name: str) -> Any:
    from anechoic_lab.bench import Plan

    return Plan.load(folder / name)


def told_settings() -> list[dict[str, bytes]]:
    texts = (
        ("guard", "static before=-2 at=LogSNR:-1.5"), ("guard", "dynamic fall=0.5"),
        ("guard", "interval start=0.2 stop=0.8"), ("policy", "retry:3,guard,stronger:2,raise"),
        ("fingerprint", "0123456789abcdef+fedcba9876543210"),
        ("generator", "cp {prompt} {output} --seed {seed}"), ("generator", "https://example.org/a"),
    )  # fmt: skip
    return [{kind: text.encode()} for kind, text in texts]


def read_settings(folder: Path, name: str) -> Any:
    from anechoic import TrainingIndex
    from anechoic.generators import external
    from anechoic.guidance import registry
    from anechoic.index.edit import cover
    from anechoic.protection.policy import Policy

    text = os.fsdecode((folder / name).read_bytes())  # as a command line has it
    if name == "policy":
        return Policy.parse(text)
    if name == "generator":
        return external(text)
    if name == "fingerprint":
        write(built(), folder)
        cover(folder, text)
        return TrainingIndex.load(folder).covers
    guard, *pairs = text.split(" ")
    return registry.build(guard, registry.parse(registry.method(guard), pairs))


def places() -> list[dict[str, bytes]]:
    names = ("clips-{000..003}.tar", "s3://bucket/clips.index", "a/{b,c}/{0..9}.parquet", "a.json")
    return [{"place": name.encode()} for name in names]


def read_place(folder: Path, name: str) -> Any:
    from anechoic.index.sources.opening import open_source
    from anechoic.storage import Storage

    where = (folder / name).read_bytes().decode("latin-1")
    if "://" in where:
        return Storage(where)
    return open_source(
        str(folder / where.lstrip("/")) if not where.startswith("hf:") else "x" + where
    )


def archived() -> list[dict[str, bytes]]:
    import tarfile

    made = BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(2):
            for suffix, content in (
                ("wav", encoded(number)),
                ("json", json.dumps({"caption": f"caption {number}", "id": number}).encode()),
            ):
                info = tarfile.TarInfo(f"{number:04}.{suffix}")
                info.size = len(content)
                tar.addfile(info, BytesIO(content))
    return [{"clips.tar": made.getvalue()}]


def read_source(folder: Path, name: str) -> Any:
    return clips_of(str(folder / name))


def clips_of(where: str) -> list[Any]:
    """All that a source says of its clips, each read whole."""
    import numpy as np

    from anechoic.index.sources.opening import open_source
    from anechoic.index.sources.protocol import VectorUnit

    found: list[Any] = []
    for unit in open_source(where).units():
        if isinstance(unit, VectorUnit):
            for clip, row in unit.rows():
                assert np.isfinite(row).all(), "a vector that is not finite"
                assert math.isfinite(clip.seconds), "a length that is not finite"
                found.append((clip.id, clip.caption))
        else:
            found += [(item.id, item.caption, item.read()[1]) for item in unit.items()]
    return found


def vectors() -> list[dict[str, bytes]]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = BytesIO()
    emb = np.eye(3, 8, dtype=np.float32)
    columns = {"id": ["a", "b", "c"], "caption": ["x", "y", "z"], "embedding": list(emb)}
    pq.write_table(pa.table(columns), made)
    authors = {
        key: {"embedding": row.tolist(), "conditioning": {"prompt": key, "seconds_start": 0,
              "seconds_total": 3}} for key, row in zip("abc", emb, strict=True)
    }  # fmt: skip
    return [{"e.parquet": made.getvalue()}, {"e.json": json.dumps(authors).encode()}]


def read_remote(folder: Path, name: str) -> Any:
    """What an object store gives: an index is fetched from it, a source is read there."""
    import fsspec

    from anechoic.index.edit import fetch

    store = fsspec.filesystem("memory")
    store.store.clear()
    for file in folder.rglob("*"):
        if file.is_file():
            store.pipe_file(f"/store/{file.relative_to(folder)}", file.read_bytes())
    if not (folder / "manifest.json").exists():
        return clips_of(f"memory://store/{name}")
    with TemporaryDirectory() as copy:
        fetch("memory://store", Path(copy) / "index")
        return verdicts(Path(copy) / "index")


def differs_if_index(good: Any, now: Any, changes: Sequence[Change]) -> bool:
    return isinstance(good, str) and bool(good != now)


def models() -> list[dict[str, bytes]]:
    parts = {
        "_class_name": "StableAudioPipeline", "_diffusers_version": "0.35.0",
        "transformer": ["diffusers", "StableAudioDiTModel"],
        "scheduler": ["diffusers", "CosineDPMSolverMultistepScheduler"],
        "vae": ["diffusers", "AutoencoderOobleck"],
    }  # fmt: skip
    return [{"model_index.json": json.dumps(parts).encode()}]


def read_model(folder: Path, name: str) -> Any:
    from anechoic.diffusers.folder import listed_parts

    return listed_parts(folder / name, "model")


def adapters() -> list[dict[str, bytes]]:
    """LoRA files of three trainers."""
    import torch
    from safetensors.torch import save

    down, up = torch.eye(2, 64), torch.ones(32, 2)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "alpha_pattern": {"a.b": 8}}
    stored = {f"transformer.{key}": value for key, value in config.items()}
    peft = {"a.b.lora_A.weight": down, "a.b.lora_B.weight": up}
    trained = {
        f"a.b.parametrizations.weight.0.lora_{key}": t
        for key, t in zip("AB", (down, up), strict=True)
    }
    header = {"lora_config": json.dumps({"adapter_type": "lora", "rank": 2, "alpha": 4})}
    return [
        {"adapter_model.safetensors": save({f"base_model.model.{k}": t for k, t in peft.items()}),
         "adapter_config.json": json.dumps(config).encode()},
        {"pytorch_lora_weights.safetensors": save(
            {f"transformer.{key}": value for key, value in peft.items()},
            {"lora_adapter_metadata": json.dumps(stored)})},
        {"a.safetensors": save(trained, header)},
    ]  # fmt: skip


def read_lora(folder: Path, name: str) -> Any:
    import torch

    from anechoic.diffusers.lora_files import read_adapter

    adapter = read_adapter(next(folder.glob("*.safetensors")))
    for update in adapter.updates(lambda module: (module,)):
        update.require_shape(32, 64, adapter.name)
        assert update(torch.ones(32, 64), 1.0).shape == (32, 64)
    return adapter.fingerprint


def checkpoints() -> list[dict[str, bytes]]:
    """A model of stable-audio-tools, and its text encoder beside it."""
    from support.original_model import save_checkpoint

    with TemporaryDirectory() as made:
        place = save_checkpoint(Path(made) / "model").parent
        files = {str(f.relative_to(place)): f.read_bytes() for f in place.rglob("*") if f.is_file()}
    return [files]


def read_checkpoint(folder: Path, name: str) -> Any:
    from anechoic.diffusers.original import to_folder
    from anechoic.diffusers.original.checkpoint import find_checkpoint

    found = find_checkpoint(folder / "model")
    if found is not None:
        to_folder(found, folder / "out", str(folder / "t5"))


def replies() -> list[dict[str, bytes]]:
    """What programs write, and what services answer."""
    import base64

    sound = encoded(0)
    packed = json.dumps({"audio": base64.b64encode(sound).decode()}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    return [
        {"output.wav": sound},
        {"answer": head % (b"audio/wav", len(sound)) + sound},
        {"answer": head % (b"application/json", len(packed)) + packed},
    ]


def read_reply(folder: Path, name: str) -> Any:
    import socket
    from threading import Thread

    from anechoic.generators import external

    if name == "output.wav":
        wav, sample_rate = external("cp {prompt} {output}", timeout_s=5)(str(folder / name), 0)
        return wav.shape[-1] / sample_rate
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with suppress(OSError), server.accept()[0] as asker:
                asker.recv(1 << 16)
                asker.sendall((folder / name).read_bytes())

        Thread(target=answer, daemon=True).start()
        generator = external(f"http://127.0.0.1:{server.getsockname()[1]}/", timeout_s=5)
        wav, sample_rate = generator("a prompt", 0)
    return wav.shape[-1] / sample_rate


def logged() -> list[dict[str, bytes]]:
    return [{"runs.jsonl": b'{"sound": 1, "outcome": "released"}\n' * 3}]


def read_log(folder: Path, name: str) -> Any:
    """The lines that are there after one was appended; what was there is kept."""
    from anechoic.protection.log import append_line

    before = (folder / name).read_bytes()
    append_line(folder / name, '{"sound": 2}')
    now = (folder / name).read_bytes()
    assert now.startswith(before), "a line was lost"
    assert now.split(b"\n")[-2:] == [b'{"sound": 2}', b""], "the new line is not one of its own"


BOUNDARIES: dict[str, Boundary] = {
    "sounds": Boundary(sound_files, read_sound, (*BYTES, cut, joined), is_part),
    "captions": Boundary(captioned, read_captions),
    "prompts": Boundary(prompted, read_prompts),
    "indexes": Boundary(lambda: [built()], verdicts, TEXT, differs),
    "certificates": Boundary(certified, read_certificate, TEXT, is_edited),
    "tars": Boundary(archived, read_source),
    "vectors": Boundary(vectors, read_source),
    "plans": Boundary(planned, read_plan),
    "settings": Boundary(told_settings, read_settings),
    "places": Boundary(places, read_place),
    "models": Boundary(models, read_model),
    "adapters": Boundary(adapters, read_lora),
    "checkpoints": Boundary(checkpoints, read_checkpoint),
    "replies": Boundary(replies, read_reply, (*TEXT, cut), is_part),
    "logs": Boundary(logged, read_log),
    "remote": Boundary(
        lambda: [*archived(), vectors()[0], built()], read_remote, TEXT, differs_if_index
    ),
}

# -------------------------------------------------------------------------------------- one input


@cache
def good_files(name: str) -> Sequence[Mapping[str, bytes]]:
    return BOUNDARIES[name].files()


def prepare(name: str, number: int, seed: int, folder: Path) -> tuple[str, list[Change], int]:
    """Write one input: the file that was changed, how, and which good input it was made of."""
    boundary, draw = BOUNDARIES[name], random.Random(f"{seed} {name} {number}")
    good = good_files(name)
    which = draw.randrange(len(good))
    files = dict(good[which])
    target = draw.choice(sorted(file for file in files if files[file]))
    changes = [draw.choice(boundary.changes) for _ in range(draw.choice((1, 1, 1, 2, 3)))]
    if joined in changes or cut in changes:
        changes = [next(change for change in changes if change in (joined, cut))]
    for change in changes:
        files[target] = change(files[target], draw) if files[target] else files[target]
    write(files, folder)
    return target, changes, which


@cache
def good_result(name: str, which: int) -> Any:
    """What is read of an input that was not changed."""
    boundary = BOUNDARIES[name]
    files = good_files(name)[which]
    with TemporaryDirectory() as folder:
        write(files, Path(folder))
        return boundary.read(Path(folder), next(iter(files)))


class Late(BaseException):
    """The time is up."""


def _late(*_: Any) -> None:
    raise Late


def outcome(name: str, number: int, seed: int, folder: Path) -> tuple[str, str]:
    """What became of one input, and in which words."""
    from anechoic.errors import AnechoicError

    target, changes, which = prepare(name, number, seed, folder)
    boundary = BOUNDARIES[name]
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WAITS * SECONDS)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            now = boundary.read(folder, target)
    except AnechoicError as error:
        text = str(error)
        return (
            ("refused", text) if len(text) < 2000 else ("traceback", f"a sentence of {len(text)}")
        )
    except OSError as error:  # the command line says these itself
        return ("refused" if error.filename else "traceback"), f"{type(error).__name__}: {error}"
    except Late:
        return "hang", f"{SECONDS} s"
    except MemoryError:
        return "memory", ""
    except BaseException as error:
        return "traceback", f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    if boundary.silent and boundary.silent(good_result(name, which), now, changes):
        how = " and ".join(change.__name__ for change in changes)
        return "silent", f"{target} after {how}: {str(now)[:200]}"
    return "accepted", ""


# --------------------------------------------------------------------------------------- processes


def work(name: str, start: int, stop: int, seed: int, ends: Connection) -> None:
    """Try inputs in this process, and send what became of each."""
    from anechoic.errors import AnechoicError

    warnings.filterwarnings("ignore")
    for which in range(len(good_files(name))):
        try:
            good_result(name, which)  # imports and caches are not an input's doing
        except AnechoicError as error:
            if name != "places":  # which are not there
                raise SystemExit(
                    f"the good input {which} of '{name}' is refused: {error}"
                ) from error
    for late in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(late, _late)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    for number in range(start, stop):
        with TemporaryDirectory() as folder:
            ends.send((number, *outcome(name, number, seed, Path(folder))))


def tried(name: str, start: int, count: int, seed: int) -> Iterator[tuple[int, str, str]]:
    """Inputs from `start` on in a process of their own; a new one goes on where one died.

    It is forked, so that it need not import everything anew.
    """
    fork = multiprocessing.get_context("fork")
    first = start
    while start < count:
        here, there = fork.Pipe(duplex=False)
        stop = min(count, start + FORKED)
        process = fork.Process(target=work, args=(name, start, stop, seed, there))
        process.start()
        there.close()
        hangs = False
        with suppress(EOFError):
            # what never comes back to the interpreter does not see that its time is up
            while not (hangs := not here.poll(2 * WAITS * SECONDS + 60)):
                number, end, words = here.recv()
                start = number + 1
                yield number, end, words
        if hangs:
            process.kill()
        process.join()
        if process.exitcode:
            if start == first and process.exitcode == 1:
                raise SystemExit(f"'{name}' cannot be tried")
            words = f"the process ended with {process.exitcode}"
            yield start, "hang" if hangs else "crash", words
            start += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("count", type=int, nargs="?", default=10_000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=[*BOUNDARIES], default=[*BOUNDARIES])
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    parser.add_argument("--keep", type=Path, help="folder of what is done, and of failing inputs")
    given = parser.parse_args()
    began, failing = time.monotonic(), given.keep or Path(mkdtemp(prefix="fuzz-"))
    failing.mkdir(parents=True, exist_ok=True)
    each = -(-given.count // len(given.only))
    os.environ["OMP_NUM_THREADS"] = "1"  # a process of several threads cannot be forked
    for module in HEAVY:
        import_module(module)
    counts: dict[str, Counter[str]] = {}
    for name in given.only:
        done = failing / f"{name}-{given.seed}.json"
        counts[name] = Counter(json.loads(done.read_text()) if done.exists() else {})
        for number, end, words in tried(name, counts[name].total(), each, given.seed):
            counts[name][end] += 1
            if end in FAILS:
                folder = failing / f"{name}-{number}-{end}"
                prepare(name, number, given.seed, folder)
                print(f"{folder}: {words}", file=sys.stderr, flush=True)
            if given.keep and (end in FAILS or number % 100 == 99 or number == each - 1):
                done.write_text(json.dumps(counts[name]))
    total: Counter[str] = sum(counts.values(), Counter())
    if given.json:
        print(json.dumps({name: dict(found) for name, found in counts.items()}))
    else:
        ends = ("refused", "accepted", *FAILS)
        print(f"| boundary | {' | '.join(ends)} |\n|{' --- |' * (len(ends) + 1)}")
        for name, found in [*counts.items(), ("all", total)]:
            print(f"| {name} | {' | '.join(str(found[end]) for end in ends)} |")
        print(f"seed {given.seed}, {time.monotonic() - began:.0f} s")
    failed = any(total[end] for end in FAILS)
    if not failed and not given.keep:
        shutil.rmtree(failing)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
