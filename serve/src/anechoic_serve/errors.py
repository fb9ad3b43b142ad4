"""What the service answers when it gives no sound, each with its HTTP status."""

from __future__ import annotations

import math

from anechoic.errors import AnechoicError


class NotServed(AnechoicError):
    """A request that is not served."""

    status = 503

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer."""
        return {}


class NotReady(NotServed):
    """Nothing can be verified, so nothing is released."""


class Busy(NotServed):
    """So many sounds wait that no more may, or that this one would come too late."""

    status = 429

    def __init__(self, sentence: str, retry_after_s: float):
        super().__init__(sentence)
        self.retry_after_s = max(1, math.ceil(retry_after_s))

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after_s)}


class TooLate(NotServed):
    """A request that was not done by its deadline."""

    status = 504


class Refused(NotServed):
    """All attempts were copies."""

    status = 409
