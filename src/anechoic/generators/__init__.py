"""What makes sound from text outside this process: a command line, or an HTTP endpoint.

Each is a function of a prompt and a seed, as `anechoic.audit.audit` and `anechoic.protect` take it.
"""

from __future__ import annotations

from anechoic.generators.command import TIMEOUT_S, CommandLine
from anechoic.generators.endpoint import Endpoint

__all__ = ["TIMEOUT_S", "CommandLine", "Endpoint", "external"]


def external(
    text: str, *, seconds: float | None = None, timeout_s: float = TIMEOUT_S
) -> CommandLine | Endpoint:
    """The generator that a text names: the address of an endpoint, or a command line.

    Args:
        text: such as "my-tts {prompt} --seed {seed} -o {output}", or "https://host/path".
        seconds: the length to ask for; None: the generator's own.
        timeout_s: the time that each sound may take, in seconds.

    Raises:
        BadSetting: it names no generator that can be called.

    Example: `protect(external("my-tts {prompt} -o {output}"), "clips.index", "a solo violin")`
    """
    scheme = text.partition("://")[0]
    kind = Endpoint if scheme.isalnum() and len(scheme) < len(text) else CommandLine
    return kind(text, seconds, timeout_s)
