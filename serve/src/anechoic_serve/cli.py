"""`anechoic serve`: an endpoint that lets nothing out that is a copy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anechoic.cli.options import Device, require_index
from anechoic.cli.output import say
from anechoic.errors import BadSetting

if TYPE_CHECKING:
    from anechoic_serve.service import Service
    from anechoic_serve.settings import Settings

SPARE_S = 10.0  # after the longest deadline, when the process ends all the same


def register(app: typer.Typer) -> None:
    """Add `anechoic serve`."""
    app.command()(serve)


def serve(
    config: Annotated[
        Path | None, typer.Option(help="TOML file of settings; options come before it.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder or hub id of a pipeline. By default demo.")
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(help="Folder of the index. By default the one that the model brings."),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. By default 127.0.0.1.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="By default 8000.")] = None,
    device: Device = None,
    log: Annotated[
        Path | None, typer.Option(help="Append all requests to this JSON-lines file.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="ray: replicas on a Ray cluster. By default this process.")
    ] = None,
    new_key: Annotated[
        str | None,
        typer.Option(
            "--new-key", metavar="NAME", help="Print a new key and what the settings hold of it."
        ),
    ] = None,
) -> None:
    """Serve generation over HTTP, and let out only what was verified to be no copy.

    Without options it serves the demo model on this machine alone. Each setting can stand in the
    TOML file, or in the environment as ANECHOIC_SERVE_ and its name in capitals. SIGHUP has the
    index opened again; SIGTERM ends after the requests that are here.

    Exit codes: 0 ended by a signal; 2 a setting cannot be used, or the address is taken.

    Example: `anechoic serve --model my-model --index clips.index --config serve.toml`
    """
    if new_key is not None:
        _print_key(new_key)
        return
    from anechoic_serve.settings import load

    given = {"model": model, "index": index, "host": host, "port": port, "device": device}
    settings = load(config, **given, log=log)
    require_index(settings.index_name)
    if engine == "ray":
        from anechoic_serve import replicas

        replicas.run(settings)
    elif engine is not None:
        raise BadSetting(f"'--engine' is ray, or left out, got {engine!r}")
    else:
        run(settings)


def run(settings: Settings) -> None:
    """Serve until a signal comes."""
    import uvicorn

    from anechoic_serve.app import create_app
    from anechoic_serve.service import Service

    service = Service(settings)
    _reload_on_hangup(service)
    logging = dict(uvicorn.config.LOGGING_CONFIG)
    own = {"handlers": ["default"], "level": "INFO", "propagate": False}
    uvicorn.run(
        create_app(service=service),
        host=settings.host,
        port=settings.port,
        log_config={**logging, "loggers": {**logging["loggers"], "anechoic.serve": own}},
        access_log=False,  # the audit log has more, and no addresses
        server_header=False,
        limit_concurrency=settings.connections,
        timeout_graceful_shutdown=round(settings.deadline_s + SPARE_S),
    )


def _reload_on_hangup(service: Service) -> None:
    import signal
    import threading

    def reload(*_: Any) -> None:
        threading.Thread(target=service.reload, daemon=True).start()

    if hasattr(signal, "SIGHUP"):  # Windows has none
        signal.signal(signal.SIGHUP, reload)


def _print_key(name: str) -> None:
    from anechoic_serve.keys import new_key

    secret, key = new_key(name)
    say(f"the key of {name}, which is shown this once: {secret}", "in the TOML file of settings:")
    print(f'[[keys]]\nname = "{key.name}"\nsha256 = "{key.sha256}"')
