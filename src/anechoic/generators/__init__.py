"""What makes sound from text outside this process: a command line, or an HTTP endpoint.

Each is a function of a prompt and a seed, as `anechoic.audit.audit` and `anechoic.protect` take it.
"""

from __future__ import annotations

from anechoic.generators.command import TIMEOUT_S, CommandLine

__all__ = ["TIMEOUT_S", "CommandLine", "external"]


def external(
    text: str, *, seconds: float | None = None, timeout_s: float = TIMEOUT_S
) -> CommandLine:
    """The generator that a text names: a command line with `{prompt}` and `{output}`.

    Args:
        text: such as "my-tts {prompt} --seed {seed} -o {output}".
        seconds: the length to ask for; None: the generator's own.
        timeout_s: the time that each sound may take, in seconds.

    Raises:
        BadSetting: it names no generator that can be called.

    Example: `protect(external("my-tts {prompt} -o {output}"), "clips.index", "a solo violin")`
    """
    return CommandLine(text, seconds, timeout_s)
