"""anechoic over HTTP: an endpoint that generates, verifies, and lets nothing out that is a copy.

`create_app` makes the application, and `anechoic serve` runs it. docs/how-to/deploy.md takes an
operator from a folder of clips to a protected endpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anechoic.lazy import on_first_use

if TYPE_CHECKING:
    from anechoic_serve.app import create_app
    from anechoic_serve.settings import Settings

__all__ = ["Settings", "create_app"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = on_first_use(
        __name__,
        {
            "anechoic_serve.app": ("create_app",),
            "anechoic_serve.settings": ("Settings",),
        },
    )
