"""`anechoic serve --engine ray`: the same application in replicas on a Ray cluster.

Each replica has a model, an index and a queue of its own, and its own file of the audit log. What
was released is kept by one actor, so that a link holds at every replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anechoic.errors import BadSetting
from anechoic_serve.app import create_app
from anechoic_serve.errors import NotReady
from anechoic_serve.service import CLOSED, Service
from anechoic_serve.settings import Settings
from anechoic_serve.shelf import Shelf, Shelved


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


@contextmanager
def replicas(settings: Settings) -> Iterator[str]:
    """Serve on a Ray cluster: the address, for the length of a `with` block.

    The cluster is the one that RAY_ADDRESS names, or one of this machine alone.

    Raises:
        BadSetting: Ray Serve is not installed, or the replicas do not start.
    """
    try:
        from anechoic_ray import cluster
        from ray import serve
    except ImportError as error:
        raise BadSetting(
            f"Ray Serve is not installed ({error}); install it with "
            "pip install 'anechoic-serve[ray]'"
        ) from error
    with cluster.connected() as ray:
        # a shelf that had to be started again is empty, and its links are gone
        keeper = ray.remote(num_cpus=0, max_restarts=-1)(Shelf)
        shelf = SharedShelf(keeper.remote(settings.keep_bytes, settings.keep_s))

        def build() -> Any:
            return _in_a_replica(settings, shelf)

        deployment = serve.deployment(
            name="anechoic",
            ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
            max_ongoing_requests=settings.queue + settings.connections,
            autoscaling_config={
                "min_replicas": settings.replicas,
                "max_replicas": max(settings.replicas, settings.most_replicas or 1),
                "target_ongoing_requests": settings.batch * settings.pipelines,
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


def _in_a_replica(settings: Settings, shelf: SharedShelf) -> Any:
    """The application of a replica, which begins once its model is there."""
    from ray import serve

    if settings.log is not None:  # each replica writes a file of its own
        own = serve.get_replica_context().replica_id.unique_id
        named = Path(settings.log)
        settings = settings.model_copy(
            update={"log": named.with_name(f"{named.stem}-{own}{named.suffix}")}
        )
    service = Service(settings)
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
