"""An index over a Ray cluster: its units embedded and its shards encoded by many machines.

What is done with a unit or a shard is what one machine does (`build.do_unit`), so the files are
the same. `served` is the other half: an index that is searched by many.
"""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from logging import CRITICAL, getLogger
from os import getcwd
from threading import Event, Lock, Thread
from typing import Any, cast

import numpy as np
import torch

from anechoic.errors import AnechoicError, BadSetting, CannotWrite
from anechoic.index import build, shards
from anechoic.index.build import PLAN, Run, Work, do_unit
from anechoic.index.manifest import NOTES, Manifest
from anechoic.index.shards import Shard
from anechoic.index.sources.protocol import Unit, VectorUnit
from anechoic.index.vectors import project
from anechoic.storage import Storage
from anechoic_ray import cluster

BLOCKS = 10_000  # Ray Data keeps a note of each; in one go the units of a block are done
EVERY_S = 0.5  # a worker tells how far it is, and is asked


def over_ray(workers: int | None = None, *, cpus: float = 1.0, gpus: float = 0.0) -> Run:
    """What does the units of a build by Ray Data, in actors that each make the embedder once.

    A unit whose actor is killed is done again, from its last finished shard on.

    Args:
        workers: actors at most; None: as many as the cluster holds.
        cpus: of each actor.
        gpus: of each actor; with any, it embeds on the GPU.

    Raises (when it runs):
        BadSetting: no actor fits on its cluster.
        CannotWrite: a machine of the cluster does not see the index's folder.
        AnechoicError: as `build.do_unit`; or one worker after the other died at a unit.
    """
    if workers is not None and workers < 1:
        raise BadSetting(f"expected 1 worker or more, got {workers}")
    return _OverRay(workers, cpus, gpus)


@dataclass(frozen=True)
class _OverRay:
    workers: int | None
    cpus: float
    gpus: float

    def __call__(
        self, units: Sequence[Unit | VectorUnit], work: Work, told: Callable[[int], None]
    ) -> None:
        place = Storage(work.folder)
        begun = set(place.names(NOTES))
        done = [build.clips_done(place, unit) if f"{unit.key}-00000.json" in begun else 0
                for unit in units]  # fmt: skip
        with cluster.connected() as ray, _quiet(ray):
            tally = ray.remote(num_cpus=0, max_restarts=-1)(cluster.Tally).remote()
            rows = self._rows(ray, units, work, tally)
            with _progress(ray, tally, done, told) as count:
                for row in _checked(rows):
                    if row["error"]:
                        raise ray.cloudpickle.loads(row["error"])
                    count(row["number"], row["clips"])

    def _rows(
        self, ray: Any, units: Sequence[Unit | VectorUnit], work: Work, tally: Any
    ) -> Iterator[dict[str, Any]]:
        """A row for each unit, when it is done."""
        import ray.data as data

        fit = min(cluster.room(ray, self.cpus, self.gpus), len(units))
        if fit < 1:
            raise BadSetting(
                f"no machine of the Ray cluster has {self.cpus:g} CPUs and {self.gpus:g} GPUs; ask "
                "for less, or add one that has"
            )
        plan = Storage(work.folder).read(f"{NOTES}/{PLAN}")
        items = [{"number": number, "unit": ray.cloudpickle.dumps(unit)}
                 for number, unit in enumerate(units)]  # fmt: skip
        made = data.from_items(items, override_num_blocks=min(len(items), BLOCKS)).map(
            cast(Any, _Builder),  # made in each actor, and called with a row
            fn_constructor_args=(
                getcwd(),
                ray.cloudpickle.dumps(work),
                plan,
                self.gpus > 0,
                tally,
            ),
            compute=data.ActorPoolStrategy(
                size=min(self.workers or fit, fit), max_tasks_in_flight_per_actor=1
            ),
            num_cpus=self.cpus,
            num_gpus=self.gpus,
        )
        return iter(made.iter_rows())


class _Builder:
    """An actor that does units, one after the other."""

    def __init__(self, folder: str, work: bytes, plan: bytes, on_gpu: bool, tally: Any):
        self.folder, self.plan, self.on_gpu, self.tally = folder, plan, on_gpu, tally
        self.pickled = work  # opened when errors can be told: Ray prints those of an `__init__`

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Do the unit of a row; an error is told, not raised: Ray would print its frames."""
        from ray import cloudpickle

        clips, error = 0, None
        try:
            cluster.enter(self.folder)
            clips = self._do(row["number"], cloudpickle.loads(row["unit"]))
        except AnechoicError as wrong:
            error = wrong
        except Exception:  # of any library beneath a source or an embedder
            error = AnechoicError(f"a unit failed on a Ray worker:\n{traceback.format_exc()}")
        told = cloudpickle.dumps(error) if error else b""
        return {"number": row["number"], "clips": clips, "error": told}

    @cached_property
    def work(self) -> Work:
        from ray import cloudpickle

        work: Work = cloudpickle.loads(self.pickled)
        device = "cuda" if self.on_gpu else work.device
        return replace(work, embedder=cache(work.embedder), device=device)

    def _do(self, number: int, unit: Unit | VectorUnit) -> int:
        place = Storage(self.work.folder)
        self._require_same(place)
        clips, last = build.clips_done(place, unit), time.monotonic()
        self._require_harmless(number, unit.key, clips)

        def told(count: int) -> None:
            nonlocal clips, last
            clips += count
            if time.monotonic() - last > EVERY_S:
                last = time.monotonic()
                self.tally.put.remote(number, clips)

        do_unit(unit, self.work, told)
        return clips

    def _require_harmless(self, number: int, key: str, clips: int) -> None:
        """Refuse a unit at whose next shard one worker after the other has died."""
        import ray

        try:
            times = ray.get(self.tally.begin.remote(number, clips))
        except ray.exceptions.RayError:  # its machine is gone, and what it knew
            return
        if times > cluster.RETRIES + 1:
            raise AnechoicError(
                f"{times - 1} workers died at unit '{key}', after {clips} of its clips, as they do "
                "when memory is short or a file breaks a decoder; finished work is not lost: start "
                "the build again, with more CPUs for each worker or without that file"
            )

    def _require_same(self, place: Storage) -> None:
        """Refuse a folder of that name which only this machine sees: its shards would be lost."""
        try:
            same = place.read(f"{NOTES}/{PLAN}") == self.plan
        except FileNotFoundError:
            same = False
        if not same:
            raise CannotWrite(
                f"'{place.name}' is another folder on machine '{socket.gethostname()}' of the Ray "
                "cluster; build in a folder that all machines share, or at a URL"
            )


# --------------------------------------------------------------------------------------- progress


@contextmanager
def _progress(
    ray: Any, tally: Any, done: list[int], told: Callable[[int], None]
) -> Iterator[Callable[[int, int], None]]:
    """A function that takes the clips of a unit; it is called with what the actors tell, too.

    A unit that is done again is not told twice.
    """
    from ray.exceptions import RayError

    lock, over = Lock(), Event()

    def count(number: int, clips: int) -> None:
        with lock:
            more, done[number] = clips - done[number], max(clips, done[number])
            if more > 0:
                told(more)

    def ask() -> None:
        while not over.wait(EVERY_S):
            try:
                for number, clips in ray.get(tally.take.remote()).items():
                    count(number, clips)
            except RayError:  # the tally's machine is gone; the rows tell, later
                continue

    asking = Thread(target=ask, daemon=True)
    asking.start()
    try:
        yield count
    finally:
        over.set()
        asking.join()


def _checked(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of Ray Data; what it raises becomes one sentence."""
    from ray.exceptions import RayError

    try:
        yield from rows
    except RayError as error:
        raise AnechoicError(
            f"the Ray cluster failed ({' '.join(str(error).split())[:200]}); what was finished is "
            "kept: start the build again to go on from there"
        ) from error


@contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Keep Ray Data from telling of itself: the build has its own progress."""
    import ray.data as data

    context, log = data.DataContext.get_current(), getLogger("ray.data")
    before = (context.enable_progress_bars, context.print_on_execution_start, log.level)
    context.enable_progress_bars = context.print_on_execution_start = False
    log.setLevel(CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars, context.print_on_execution_start, _ = before
        log.setLevel(before[2])


# --------------------------------------------------------------------------------------- encoding


def encode(
    place: Storage, manifest: Manifest, trained: bytes, wanted: Sequence[Shard]
) -> Iterator[tuple[Shard, np.ndarray]]:
    """The codes of some shards, each encoded by a Ray task, in any order.

    The tasks read the shards, so any machine can; the codes come back, and are put together here.

    Args:
        place: of the index.
        manifest: of the index.
        trained: the empty structure (`structure.train`).
        wanted: shards.

    Raises:
        IndexMismatch: a shard is damaged.
        AnechoicError: workers died.
    """
    with cluster.tasks() as pool:
        known = pool.shared((trained, manifest.mean, manifest.dtype))
        running = {pool.submit(encoded, place.name, shard, known): shard for shard in wanted}
        for future in as_completed(running):
            yield running.pop(future), future.result()


def encoded(name: str, shard: Shard, known: cluster.Shared) -> np.ndarray:
    """The codes of one shard, uint8 [n, c]."""
    from anechoic.index import structure

    trained, mean, dtype = known.value
    table = shards.read_table(Storage(name), shard)
    centre = None if mean is None else torch.tensor(mean)
    rows = project(torch.from_numpy(shards.embeddings_of(table)), centre).numpy()
    # rounded as the vectors that one machine lays out and encodes
    return structure.encode(trained, rows.astype(dtype).astype(np.float32))
