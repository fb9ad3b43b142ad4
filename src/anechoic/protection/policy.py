"""What is tried when a sound is a copy, and what happens when nothing helps."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from anechoic.errors import BadSetting

Kind = Literal["first", "retry", "guard", "stronger"]
End = Literal["refuse", "raise", "report"]
TRIES, ENDS = get_args(Kind)[1:], get_args(End)
MOST = 100  # attempts of a sound
COUNTS = {str(number) for number in range(1, MOST + 1)}


@dataclass(frozen=True)
class Policy:
    """The attempts at one sound, in order, and what happens if each of them is a copy."""

    attempts: tuple[Kind, ...]  # the first generation included
    end: End = "refuse"

    @classmethod
    def parse(cls, on_copy: str | Sequence[str]) -> Policy:
        """Read a policy: "retry", "guard" and "stronger", each with a count, then how it ends.

        Args:
            on_copy: steps, or their names with commas between them. "retry:3" is three attempts;
                without a count it is one. The last step is "refuse", "raise" or "report"; without
                one of these, "refuse" is meant.

        Raises:
            BadSetting: an unknown step, a count that is not from 1 to 100, or an end before the
                last step.

        >>> Policy.parse("retry:2,guard")
        Policy(attempts=('first', 'retry', 'retry', 'guard'), end='refuse')
        """
        texts = on_copy.split(",") if isinstance(on_copy, str) else list(on_copy)
        attempts: list[Kind] = ["first"]
        end: End = "refuse"
        for place, text in enumerate(texts, 1):
            name, colon, count = text.strip().partition(":")
            if name in TRIES and (not colon or count in COUNTS):
                attempts += [cast(Kind, name)] * int(count or 1)
            elif name in ENDS and not colon and place == len(texts):
                end = cast(End, name)
            else:
                raise BadSetting(
                    f"expected steps among {', '.join(TRIES)}, each with a count such as 'retry:3' "
                    f"(1 to {MOST}) if it is more than once, and {' or '.join(ENDS)} as the last "
                    f"one, got {text!r}"
                )
        if len(attempts) > MOST:
            raise BadSetting(f"a sound has at most {MOST} attempts, got {len(attempts)}; try fewer")
        return cls(tuple(attempts), end)

    @property
    def guards(self) -> bool:
        """Whether a step needs a guard."""
        return "guard" in self.attempts or "stronger" in self.attempts


def seed_of_attempt(seed: int, attempt: int) -> int:
    """The seed of an attempt, counted from 0: the given one, then others derived from it.

    >>> seed_of_attempt(7, 0), seed_of_attempt(7, 1), seed_of_attempt(8, 1)
    (7, 3553817977, 3559531916)
    """
    if attempt == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{attempt}".encode()).digest()[:4], "big")
