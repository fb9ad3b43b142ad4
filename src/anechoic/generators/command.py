"""A command line as a generator."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from torch import Tensor

from anechoic import audio
from anechoic.errors import AnechoicError, BadSetting, did_you_mean

TIMEOUT_S = 600.0  # that one sound may take
PLACES = ("prompt", "output", "seed", "seconds")
PLACE = re.compile(r"\{(\w+)\}")
TAIL = 4096  # bytes of stderr that are read for its last line


@dataclass(frozen=True)
class CommandLine:
    """A program that is started for each sound and writes it to a file.

    The template is split into arguments first, as a shell splits it, and each place is filled in
    afterwards. No shell runs, so a prompt stays a single argument, whatever characters it has.

    Args:
        template: the command, with `{prompt}` and `{output}`, and if the program takes them
            `{seed}` and `{seconds}`. `{output}` is a .wav file in a folder that is then removed.
        seconds: the length to ask for; None: the program's own.
        timeout_s: in seconds; then the program and what it started are killed.

    Raises:
        BadSetting: a place is missing or unknown, or there is no such program.

    >>> CommandLine("echo {prompt} -o {output}").seeded
    False
    """

    template: str
    seconds: float | None = None
    timeout_s: float = TIMEOUT_S

    def __post_init__(self) -> None:
        require_times(self.seconds, self.timeout_s)
        words = self._words()
        used = {name for word in words for name in PLACE.findall(word)}
        if unknown := sorted(used - {*PLACES}):
            raise BadSetting(
                f"expected places among {', '.join(f'{{{name}}}' for name in PLACES)}, got "
                f"'{{{unknown[0]}}}'{did_you_mean(unknown[0], PLACES)}; other braces belong in a "
                "script that the command starts"
            )
        if missing := [name for name in PLACES[:2] if name not in used]:
            raise BadSetting(
                f"the generator '{self.template}' has no place for the {missing[0]}; write "
                f"{{{missing[0]}}} where it belongs, as in 'my-tts {{prompt}} -o {{output}}'"
            )
        if (self.seconds is not None) != ("seconds" in used):
            raise BadSetting(
                "a length and the place {seconds} in the generator need each other; give both, or "
                "neither"
            )
        if PLACE.search(words[0]):
            raise BadSetting(
                f"expected the name of a program first, got '{words[0]}'; write 'my-tts {{prompt}} "
                "-o {output}'"
            )
        if shutil.which(words[0]) is None:
            raise BadSetting(
                f"there is no program '{words[0]}' to start; check its name, or give its path"
            )

    @property
    def seeded(self) -> bool:
        """Whether another seed can make another sound."""
        return "{seed}" in self.template

    @property
    def identity(self) -> list[Any]:
        """All that is known of what its sounds depend on, except prompt and seed."""
        return ["command", self.template, self.seconds]

    @property
    def about(self) -> str:
        """The description of its guard in a report: it has none."""
        return f"the plain command: {self.template}"

    def __call__(self, prompt: str, seed: int) -> tuple[Tensor, int]:
        """Make one sound [c, t], and its sample rate in Hz.

        Raises:
            AnechoicError: the program failed, took too long or wrote nothing.
            BadAudio: what it wrote cannot be used as sound.
            BadSetting: the program would take the prompt for an option.
        """
        with TemporaryDirectory(prefix="anechoic-") as folder:
            output = Path(folder, "output.wav")
            words = self._filled(prompt, seed, output)
            with Path(folder, "stderr").open("w+b") as errors:
                self._run(words, errors)
            if not output.exists():
                raise AnechoicError(
                    f"the generator '{words[0]}' ended without an error, but wrote no sound to "
                    "{output}; check which option names the file"
                )
            return audio.read(output, allow_silence=True)

    def _words(self) -> list[str]:
        try:
            words = shlex.split(self.template)
        except ValueError as error:
            raise BadSetting(
                f"the generator '{self.template}' cannot be split into arguments ({error}); close "
                "each quote"
            ) from error
        if not words:
            raise BadSetting("the generator is empty; write 'my-tts {prompt} -o {output}'")
        return words

    def _filled(self, prompt: str, seed: int, output: Path) -> list[str]:
        """The arguments with every place filled in at once: a prompt may itself hold '{output}'."""
        values = {"prompt": prompt, "output": str(output), "seed": str(seed)}
        values["seconds"] = "" if self.seconds is None else f"{self.seconds:g}"
        words = self._words()
        free = words.index("--") if "--" in words else len(words)  # no options after it
        if prompt.startswith("-") and any(word.startswith("{prompt}") for word in words[:free]):
            raise BadSetting(
                f"the generator '{words[0]}' would take the prompt {prompt!r} for an option; write "
                "--prompt={prompt} in one word, or '--' before {prompt}, as the program allows it"
            )
        return [PLACE.sub(lambda place: values[place[1]], word) for word in words]

    def _run(self, words: Sequence[str], errors: IO[bytes]) -> None:
        name = words[0]
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # so that what it starts can be killed with it
            )
        except (OSError, ValueError) as error:  # ValueError: a character that no argument can hold
            raise AnechoicError(f"the generator '{name}' cannot be started: {error}") from error
        try:
            code = process.wait(self.timeout_s)
        except subprocess.TimeoutExpired as error:
            raise AnechoicError(
                f"the generator '{name}' took longer than {self.timeout_s:g} s and was killed; "
                "allow it more time"
            ) from error
        finally:
            if process.returncode is None:  # also if the person who waits interrupts it
                _kill(process)
        if code:
            ended = f"with exit code {code}" if code > 0 else f"by signal {-code}"
            said = _last_line(errors)
            raise AnechoicError(f"the generator '{name}' ended {ended}{said and f': {said}'}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, and on systems that have process groups also what it started."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _last_line(errors: IO[bytes]) -> str:
    """The last line that says something."""
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(size - TAIL, 0))
    lines = [line for line in errors.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def require_times(seconds: float | None, timeout_s: float) -> None:
    """Refuse a length or a time that is none.

    Raises:
        BadSetting: it is not above 0, or not finite.
    """
    for what, value in (("a length", seconds), ("a time for each sound", timeout_s)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise BadSetting(f"expected {what} above 0 s, got {value:g}; give a number above 0")
