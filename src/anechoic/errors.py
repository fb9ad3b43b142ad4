"""What can go wrong, each in one clear sentence: what was expected, what was got, the fix.

The command line prints the sentence and exits with code 2. A mitigation that cannot act raises
one of these; it never passes silently as protection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

LONGEST = 1000  # characters of a sentence


class AnechoicError(Exception):
    """The base of all errors that a user can fix.

    Its sentence may quote what it was given, so it is cut where it has no end, and escapes what a
    terminal would obey.
    """

    def __str__(self) -> str:
        text = super().__str__()
        if len(text) > LONGEST:
            text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
        return printable(text)


# what moves the cursor, sends commands to a terminal, turns the direction of text, or is no text
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Text whose control characters are escaped; line ends and tabs are kept.

    >>> printable("\x1b[2Jcafé")
    '\\x1b[2Jcafé'
    """
    return CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


class BadAudio(AnechoicError):
    """A file or array that is not usable sound: corrupt, silent, empty, NaN."""


class BadCaptions(AnechoicError):
    """A caption file that does not fit its clips."""


class BadCertificate(AnechoicError):
    """A certificate that cannot be read or signed."""


class BadEvidence(AnechoicError):
    """A file of evidence that is none, or that is not safe to unpack."""


class BadSetting(AnechoicError):
    """A parameter outside its range."""


class IndexMismatch(AnechoicError):
    """An index that does not belong to this embedder or model, or that is empty or damaged."""


class UnknownEmbedder(AnechoicError):
    """A name that is not an embedder's, or an embedder whose weights are not on this machine."""


class UnsupportedPipeline(AnechoicError):
    """A pipeline, scheduler or setting that the guard does not know how to guide."""


class GuardError(AnechoicError):
    """A guard that could not act on the generation it was put around."""


class NoPipelineFree(AnechoicError):
    """A pool that has no pipeline to give: all are taken, or it is closed."""


class NotReleased(AnechoicError):
    """A generated sound that may not leave: a copy, or one that could not be judged."""


class OutputExists(AnechoicError):
    """An output that is there already."""

    @classmethod
    def at(cls, path: object) -> OutputExists:
        """What is said of an output that may be replaced."""
        return cls(
            f"'{path}' exists already; replace it with '--overwrite' (overwrite=True in Python), "
            "or name another output"
        )


class CannotWrite(AnechoicError):
    """A place that cannot be written to: full, read-only, or in use by another process."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the known one that it looks like, if any.

    >>> did_you_mean("amgg", ["amg", "static"]), did_you_mean("shield", ["amg", "static"])
    (": did you mean 'amg'?", '')
    """
    close = get_close_matches(name.lower(), list(known), n=1)
    return f": did you mean '{close[0]}'?" if close else ""


def some(names: Sequence[str]) -> str:
    """Up to three names, and how many more there are.

    >>> some(["a", "b", "c", "d"])
    "'a', 'b', 'c' and 1 more"
    """
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"'{name}'" for name in names[:3]) + more
