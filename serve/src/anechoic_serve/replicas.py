"""`anechoic serve --engine ray`: the same application in replicas on a Ray cluster.

Each replica has a model and a queue of its own, and its own file of the audit log. The index is
opened by each, or lies in actors that all of them search. What was released is kept by one actor,
so that a link holds at every replica, and what they count by another.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anechoic.errors import BadSetting
from anechoic.models import index_folder
from anechoic_serve.app import create_app
from anechoic_serve.errors import NotReady
from anechoic_serve.metrics import Board, Metrics
from anechoic_serve.service import CLOSED, Service, load_named
from anechoic_serve.settings import Settings
from anechoic_serve.shelf import Shelf, Shelved

if TYPE_CHECKING:
    from anechoic import TrainingIndex

REPORT_EVERY_S = 5.0


class SharedShelf:
    """The shelf of all replicas: an actor that holds one."""

    def __init__(self, actor: Any):
        self._actor = actor

    def put(self, content: bytes, media: str, certificate: dict[str, Any], owner: str) -> str:
        """As `Shelf.put`. Raises `NotReady` where the actor is gone."""
        name: str = self._ask("put", content, media, certificate, owner)
        return name

    def get(self, name: str, owner: str) -> Shelved | None:
        """As `Shelf.get`. Raises `NotReady` where the actor is gone."""
        found: Shelved | None = self._ask("get", name, owner)
        return found

    def _ask(self, method: str, *arguments: Any) -> Any:
        import ray
        from ray.exceptions import RayError

        try:
            return ray.get(getattr(self._actor, method).remote(*arguments))
        except RayError as error:
            raise NotReady(CLOSED) from error


class SharedMetrics(Metrics):
    """Those of all replicas: each tells an actor what it counted, and any of them shows the sum."""

    def __init__(self, actor: Any, name: str):
        super().__init__()
        self._actor, self._name = actor, name
        threading.Thread(target=self._keep_telling, daemon=True).start()

    def text(self) -> bytes:
        """As `Metrics.text`, of all replicas. Raises `NotReady` where the actor is gone."""
        import ray
        from ray.exceptions import RayError

        try:
            self._tell()
            told: bytes = ray.get(self._actor.text.remote())
        except RayError as error:
            raise NotReady(CLOSED) from error
        return told

    def _tell(self) -> None:
        import ray

        ray.get(self._actor.put.remote(self._name, self.families()))

    def _keep_telling(self) -> None:
        from ray.exceptions import RayError

        while True:
            time.sleep(REPORT_EVERY_S)
            with suppress(RayError):  # it is started again, and told the next time
                self._tell()


@contextmanager
def replicas(settings: Settings) -> Iterator[str]:
    """Serve on a Ray cluster: the address, for the length of a `with` block.

    The cluster is the one that RAY_ADDRESS names, or one of this machine alone.

    Raises:
        BadSetting: Ray Serve is not installed, or the replicas do not start.
    """
    try:
        from anechoic_ray import cluster, served
        from ray import serve
    except ImportError as error:
        raise BadSetting(
            f"Ray Serve is not installed ({error}); install it with "
            "pip install 'anechoic-serve[ray]'"
        ) from error
    actors = settings.index_actors
    opened: Any = nullcontext()
    if actors is not None:
        place = index_folder(settings.index_name)
        opened = served(place, actors, cpus=settings.index_cpus, restarts=-1)
    with cluster.connected() as ray, opened as index:
        options = {"num_cpus": 0, "max_restarts": -1}
        # a shelf that had to be started again is empty, and its links are gone
        keeper = ray.remote(**options)(Shelf)
        shelf = SharedShelf(keeper.remote(settings.keep_bytes, settings.keep_s))
        board = ray.remote(**options)(Board).remote()

        def build() -> Any:
            return _in_a_replica(settings, shelf, board, index)

        deployment = serve.deployment(
            name="anechoic",
            ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
            max_ongoing_requests=settings.queue + settings.connections,
            autoscaling_config={
                "min_replicas": settings.replicas,
                "max_replicas": max(settings.replicas, settings.most_replicas or 1),
                "target_ongoing_requests": settings.batch * settings.pipelines,
                "upscale_delay_s": settings.more_after_s,
                "downscale_delay_s": settings.fewer_after_s,
            },
            graceful_shutdown_timeout_s=settings.deadline_s,
            max_constructor_retry_count=1,
        )(serve.ingress(build)())
        http = {"host": settings.host, "port": settings.port}
        serve.start(http_options=http, logging_config={"enable_access_log": False})
        try:
            _deploy(serve, deployment.bind())
            yield f"http://{settings.host}:{settings.port}"
        finally:
            serve.shutdown()


def _deploy(serve: Any, application: Any) -> None:
    try:
        serve.run(application, name="anechoic")
    except RuntimeError as error:
        raise BadSetting(
            f"the replicas did not start ({' '.join(str(error).split())[:300]}); look at Ray's "
            "log, and at what each of them needs ('cpus', 'gpus')"
        ) from error


def _in_a_replica(
    settings: Settings, shelf: SharedShelf, board: Any, index: TrainingIndex | None
) -> Any:
    """The application of a replica, which begins once its model is there."""
    from ray import serve

    own = serve.get_replica_context().replica_id.unique_id
    if settings.log is not None:  # each replica writes a file of its own
        named = Path(settings.log)
        settings = settings.model_copy(
            update={"log": named.with_name(f"{named.stem}-{own}{named.suffix}")}
        )
    service = Service(settings, partial(load_named, index=index), SharedMetrics(board, own))
    service.open()
    if why := service.unready():
        raise RuntimeError(why)
    return create_app(service=service, shelf=shelf)


def run(settings: Settings) -> None:
    """Serve on a Ray cluster until a signal comes."""
    import signal

    async def until_ended() -> None:
        ended = asyncio.Event()
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, ended.set)
        await ended.wait()

    from anechoic.cli.output import say

    with replicas(settings) as address:
        say(f"serving on {address}")
        asyncio.run(until_ended())
