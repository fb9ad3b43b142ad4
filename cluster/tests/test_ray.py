"""On a Ray cluster of several processes, with one of them killed: nothing is lost or changed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from anechoic_lab.bench import Method, Plan, Request, run
from anechoic_lab.bench import Source as Task
from anechoic_ray import cluster
from anechoic_ray.building import encode, over_ray
from anechoic_ray.serving import served, split
from support import TESTS
from support.audits import Model, folder_of, training_set
from support.bench_task import NumericTask
from support.index_builds import ABOUT, DIM, Bands, Noise, Source, files, work
from support.sounds import tune
from torch import Tensor

from anechoic import embedder
from anechoic.audit import audit
from anechoic.errors import AnechoicError, BadSetting, GuardError, IndexMismatch
from anechoic.index import TrainingIndex, search, shards
from anechoic.index.build import build
from anechoic.index.clips import Clip
from anechoic.index.manifest import read as read_manifest
from anechoic.index.plan import plan
from anechoic.index.shards import Shard
from anechoic.storage import Storage

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'anechoic[ray]'")


@pytest.fixture(scope="module", autouse=True)
def ray_cluster() -> Iterator[None]:
    """Three processes; they find the modules of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
        ray.init(
            num_cpus=3, include_dashboard=False, object_store_memory=80 * 2**20,
            log_to_driver=False, logging_level="ERROR",
        )  # fmt: skip
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index that one process built."""
    folder = tmp_path_factory.mktemp("built") / "index"
    build(Source(), work(folder), ABOUT)
    return folder


def test_a_stranger_is_not_let_in() -> None:
    address = ray.get_runtime_context().gcs_address
    script = f"import ray; ray.init(address='{address}', logging_level='ERROR'); print('in')"
    without = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    with subprocess.Popen(
        [sys.executable, "-c", script], env={**without, "RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as stranger:  # fmt: skip
        assert stranger.stdout is not None
        answer = next(line for line in stranger.stdout if "Unauth" in line or line == "in\n")
        stranger.kill()
    assert "InvalidAuthToken" in answer


# ---------------------------------------------------------------------------------------- building


@dataclass(frozen=True)
class Mortal(Bands):
    """Ends the life of its process at the batch in which it is given a certain clip."""

    dies_at: int = 0
    log: str = ""
    times: int = 1

    def __call__(self, wav: Tensor, sample_rate: int) -> Tensor:
        last = next(iter(Noise("", self.dies_at, 1).items())).read()[0]
        with open(self.log, "a+") as file:
            file.seek(0)
            if (wav == last).flatten(1).all(1).any() and file.read().count("died") < self.times:
                file.write("died\n")
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            file.write(f"{len(wav)} in {os.getpid()}\n")
        return super().__call__(wav, sample_rate)


@pytest.mark.slow
def test_a_build_whose_worker_is_killed_is_that_of_one_process(built: Path, tmp_path: Path) -> None:
    folder, log, told = tmp_path / "index", tmp_path / "log", []
    mortal = partial(Mortal, dies_at=12, log=str(log))  # in the second shard of the second unit
    build(
        Source(), work(f"file://{folder}", embedder=mortal), ABOUT, run=over_ray(2),
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert files(folder) == files(built)
    assert told[0] == (0, 23)
    assert told[-1] == (23, 23)
    assert told == sorted(set(told)), "a clip was told twice"
    lines = log.read_text().splitlines()
    assert lines.count("died") == 1
    batches = [int(line.split()[0]) for line in lines if line != "died"]
    assert sum(batches) == 23, "a finished shard was embedded again"
    assert len({line.split()[-1] for line in lines if line != "died"}) >= 2


@pytest.mark.slow
def test_a_build_that_fails_is_told_in_its_own_words_and_goes_on(
    built: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "index"
    with pytest.raises(IndexMismatch) as error:
        build(Source(bad=20), work(folder), ABOUT, run=over_ray(1))
    assert str(error.value) == "the drive is gone"
    build(Source(), work(folder), ABOUT)
    assert files(folder) == files(built)


@pytest.mark.slow
def test_a_unit_that_kills_every_worker_ends_the_build_with_its_name(tmp_path: Path) -> None:
    hopeless = partial(Mortal, dies_at=20, log=str(tmp_path / "log"), times=99)
    with pytest.raises(AnechoicError, match=r"4 workers died at unit 'u2', after 0 of its clips"):
        build(Source(), work(tmp_path / "index", embedder=hopeless), ABOUT, run=over_ray(1))


def test_no_actor_that_fits_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="has 1 CPUs and 1 GPUs"):
        build(Source(), work(tmp_path / "index"), ABOUT, run=over_ray(gpus=1))


# --------------------------------------------------------------------------------------- searching


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of six shards; its row 0 has copies in rows 5, 9 and 22."""
    drawn = torch.randn(23, DIM, generator=torch.Generator().manual_seed(0))
    drawn[[5, 9, 22]] = drawn[0].clone()
    made = TrainingIndex.from_embeddings(
        drawn, [f"noise {i}" for i in range(23)], embedder_name="bands", centre=True
    )
    folder = tmp_path_factory.mktemp("shared")
    made.save(folder / "one")
    told, place = read_manifest(Storage(folder / "one")), Storage(folder / "index")
    parts = [
        shards.write(place, f"{i}", made.clips[i : i + 4], made.embeddings[i : i + 4].numpy(), 4)
        for i in range(0, 23, 4)
    ]
    replace(told, shards=tuple(parts)).write(place)
    return folder / "index"


@pytest.fixture(scope="module")
def alone(shared: Path) -> TrainingIndex:
    """It, in one memory."""
    return TrainingIndex.load(shared)


@pytest.fixture(scope="module")
def index(shared: Path) -> Iterator[TrainingIndex]:
    """It, served by two actors."""
    with served(shared, 2, Bands(), cpus=0.5) as index:
        yield index


@pytest.mark.parametrize("k", [1, 4, 40])
@pytest.mark.parametrize("batch", [1, 7])
def test_served_by_actors_it_answers_as_in_one_memory(
    alone: TrainingIndex, index: TrainingIndex, batch: int, k: int
) -> None:
    query = torch.randn(batch, DIM, generator=torch.Generator().manual_seed(3))
    wanted = alone.search(alone.project(query), k)
    found = index.search(index.project(query), k)
    assert torch.equal(found.rows, wanted.rows)
    assert torch.equal(found.scores, wanted.scores)


def test_copies_in_different_actors_stand_in_the_order_of_the_rows(
    alone: TrainingIndex, index: TrainingIndex
) -> None:
    found = index.search(alone.vectors(torch.tensor([9])), 5)
    assert found.rows[0, :4].tolist() == [0, 5, 9, 22]
    assert len(found.scores[0, :4].unique()) == 1


def test_a_search_carries_the_gradient_and_the_clips(
    alone: TrainingIndex, index: TrainingIndex
) -> None:
    grads = []
    for store in (alone, index):
        emb = torch.randn(2, DIM, generator=torch.Generator().manual_seed(4), requires_grad=True)
        store.search(store.project(emb), 2).scores.sum().backward()
        grads.append(emb.grad)
    assert torch.equal(*grads)
    rows = torch.tensor([[22, 0], [13, 14]])
    assert torch.equal(index.vectors(rows), alone.vectors(rows))
    assert list(index.captions) == list(alone.captions)
    assert index.captions[-1] == "noise 22"
    assert list(index.clips) == list(alone.clips)
    assert index.clips[13] == Clip("13", "noise 13")
    assert len(index) == 23
    with pytest.raises(IndexMismatch, match="was built with 'bands'"):
        index.check_embedder(replace(Bands(), name="other"))


def test_a_search_actor_that_is_killed_is_started_again_and_answers(
    alone: TrainingIndex, index: TrainingIndex
) -> None:
    before = processes("ray::Part")
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)
    query = alone.project(torch.randn(3, DIM, generator=torch.Generator().manual_seed(5)))
    assert torch.equal(index.search(query, 23).scores, alone.search(query, 23).scores)
    assert set(processes("ray::Part")) != set(before)


def processes(title: str) -> list[int]:
    """The processes of this test's cluster that run what is called so."""
    import psutil

    found = []
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[0].startswith(title):
            found.append(process.pid)
    return sorted(found)


@pytest.mark.parametrize(
    ("sizes", "count", "parts"),
    [((5, 2, 5, 5, 2, 4), 2, [3, 3]), ((5, 2, 5, 5, 2, 4), 6, [1] * 6), ((90, 1, 1), 3, [1] * 3),
     ((1, 1, 90), 2, [2, 1]), ((4,), 1, [1])],
)  # fmt: skip
def test_shards_are_split_in_their_order_and_evenly(sizes, count: int, parts: list[int]) -> None:
    found = [Shard(f"{i}", rows, rows, 0, "") for i, rows in enumerate(sizes)]
    made = split(found, count)
    assert [shard for part in made for shard in part] == found
    assert [len(part) for part in made] == parts


def test_more_actors_than_shards_are_refused(built: Path) -> None:
    with pytest.raises(BadSetting, match="6 shards can be split among 1 to 6 actors, not 7"):
        served(built, 7).__enter__()


def test_shards_that_tasks_encode_have_the_codes_of_one_process(tmp_path: Path) -> None:
    drawn = torch.randn(2000, 32, generator=torch.Generator().manual_seed(0))
    made = TrainingIndex.from_embeddings(drawn, centre=True)
    made.save(tmp_path / "index", dtype="float16")
    place = Storage(tmp_path / "index")
    told = read_manifest(place)
    planned = plan(2000, 32, kind="ivfpq")
    search.derive(tmp_path / "index", told, planned)
    trained = (tmp_path / "index/search/trained.bin").read_bytes()
    (file,) = (tmp_path / "index/search/codes").iterdir()
    ((shard, codes),) = encode(place, told, trained, told.shards)
    assert shard == told.shards[0]
    assert np.array_equal(codes, np.load(file))


# ------------------------------------------------------------------------------ bench and audit


PLAN = Plan("small", (Method("none", "none"), Method("push", "push", "push", {"strength": 1.0})),
            seeds=(0, 1), scenarios=("large",), batch=2)  # fmt: skip


@pytest.mark.slow
def test_a_bench_whose_worker_is_killed_has_the_rows_of_one_process(tmp_path: Path) -> None:
    log, killed = tmp_path / "log", []

    def kill(done: int, total: int) -> None:
        if done == 3 and not killed:
            killed.extend(processes("ray::_call")[:1])
            os.kill(killed[0], signal.SIGKILL)

    subject = Task.of("support.bench_task:make", log=str(log), delay_s=0.5)
    results = run(PLAN, subject, tmp_path / "work", jobs=2, engine="ray", progress=kill)
    assert killed
    assert results.computed == 14
    alone = NumericTask("", 0, ("large",))
    for method in PLAN.methods:
        prompts = alone.prompts("large", "report")
        wanted = [row for seed in PLAN.seeds
                  for row in alone.generate(Request("large", prompts, seed, method))]  # fmt: skip
        assert list(results.rows["large", method.name]) == wanted
    lines = log.read_text().splitlines()
    assert len(set(lines)) == 12
    assert len(lines) <= 13, "more than the killed cell ran again"
    assert results.machines[0]["processes"] == "2 Ray tasks x 1 threads"


def test_what_fails_in_a_task_is_told_in_its_own_words(tmp_path: Path) -> None:
    failing = replace(PLAN, methods=(Method("bad", "bad", "fail"),), seeds=(0,), batch=6)
    with pytest.raises(GuardError) as error:
        run(failing, Task.of("support.bench_task:make"), tmp_path, engine="ray")
    assert str(error.value) == (
        "method 'bad', scenario 'large', seed 0, prompts 'm0' to 'o2': the guidance returned NaN"
    )
    with pytest.raises(BadSetting, match="expected the engine local or ray, got 'spark'"):
        run(PLAN, Task.of("support.bench_task:make"), tmp_path, engine="spark")


def test_an_audit_by_tasks_is_that_of_one_process(tmp_path: Path) -> None:
    training, embed = training_set(), embedder("magmel")
    sounds = folder_of(tmp_path / "s", copy=0.3 * tune(2), other=tune(50), silent=0 * tune(1))
    alone = audit(sounds, training, embed, work=tmp_path / "alone")
    with cluster.tasks(2) as pool:
        found = audit(sounds, training, embed, work=tmp_path / "work", pool=pool)
        model = audit(
            Model(), training, embed, prompts=["tune number 3"], model="m",
            work=tmp_path / "work", pool=pool,
        )  # fmt: skip
    assert found.examined == alone.examined
    assert found.unexamined == alone.unexamined
    assert model.sentence == "1 of 1 generation replicates a training clip."
