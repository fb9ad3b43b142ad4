"""An HTTP endpoint as a generator."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from anechoic import audio
from anechoic.errors import AnechoicError, BadSetting
from anechoic.generators.command import TIMEOUT_S, require_times
from anechoic.parsing import parse_object, require_limit

if TYPE_CHECKING:
    from httpx2 import URL, Response

TOKEN = "ANECHOIC_GENERATOR_TOKEN"  # the variable of the environment that holds it
CONNECT_S = 10.0
SAID = 200  # characters of a refusal that are repeated


@dataclass(frozen=True)
class Endpoint:
    """A service that is sent a prompt, and sends back sound.

    It gets a POST of JSON, `{"prompt": ..., "seed": ...}` and `"seconds"` if a length is asked for,
    and answers with a sound file, or with JSON whose `"audio"` is one in base64. If the environment
    has `ANECHOIC_GENERATOR_TOKEN`, it is sent as a bearer token.

    Args:
        url: https://, or http:// on this machine; a redirect is not followed.
        seconds: the length to ask for; None: the service's own.
        timeout_s: in seconds, for the whole answer.

    Raises:
        BadSetting: a URL that is none of these, or that holds a password.

    >>> Endpoint("https://tts.example.org/generate").seeded
    True
    """

    url: str
    seconds: float | None = None
    timeout_s: float = TIMEOUT_S
    seeded = True

    def __post_init__(self) -> None:
        require_times(self.seconds, self.timeout_s)
        url = self._parsed
        if url.userinfo:
            raise BadSetting(
                f"the address of the generator holds a name or password; put a token into {TOKEN}"
            )
        if not url.host or not (url.scheme == "https" or (url.scheme == "http" and self._here)):
            raise BadSetting(
                f"expected https://, or http:// on this machine, got '{self.url}'; sound and "
                "prompts would travel unprotected"
            )

    @property
    def identity(self) -> list[Any]:
        """All that is known of what its sounds depend on, except prompt and seed."""
        return ["endpoint", self.url, self.seconds]

    @property
    def about(self) -> str:
        """The description of its guard in a report: it has none."""
        return f"the plain endpoint: {self.url}"

    def __call__(self, prompt: str, seed: int) -> tuple[Tensor, int]:
        """Ask for one sound [c, t], and its sample rate in Hz.

        Raises:
            AnechoicError: no answer, a refusal, one that is too large or takes too long.
            BadAudio: the answer cannot be used as sound.
            BadSetting: the token cannot be sent.
        """
        import httpx2

        asked: dict[str, Any] = {"prompt": prompt, "seed": seed}
        asked |= {} if self.seconds is None else {"seconds": self.seconds}
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json", **_token()}
        limits = httpx2.Timeout(self.timeout_s, connect=min(CONNECT_S, self.timeout_s))
        ends, url = time.monotonic() + self.timeout_s, self._parsed
        try:
            with (  # a proxy of the environment does not see what stays on this machine
                httpx2.Client(
                    timeout=limits, trust_env=not self._here, verify=url.scheme == "https"
                ) as client,
                client.stream("POST", url, content=json.dumps(asked), headers=headers) as answer,
            ):
                content = self._read(answer, ends)
        except httpx2.TimeoutException as error:
            raise self._late() from error
        except httpx2.HTTPError as error:
            what = str(error) or type(error).__name__
            raise AnechoicError(f"the generator {self.url} does not answer: {what}") from error
        if answer.status_code != httpx2.codes.OK:
            raise AnechoicError(self._refusal(answer, content))
        if answer.headers.get("Content-Type", "").partition(";")[0].strip() == "application/json":
            content = self._sound_of(content)
        return audio.read_bytes(content, f"the answer of {self.url}", allow_silence=True)

    @property
    def _parsed(self) -> URL:
        import httpx2

        try:
            return httpx2.URL(self.url)
        except (httpx2.InvalidURL, UnicodeEncodeError) as error:
            raise BadSetting(
                f"'{self.url}' is not an address ({error}); give one as https://host/path"
            ) from error

    @property
    def _here(self) -> bool:
        """Whether it is on this machine."""
        host = self._parsed.host
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def _read(self, answer: Response, ends: float) -> bytes:
        """The whole body, as long as it is within the limits."""
        content = bytearray()
        for part in answer.iter_bytes():  # as it comes in, so that a slow one cannot go on for ever
            content += part
            what = f"the answer of {self.url} has {len(content):,} bytes or more"
            require_limit("FILE_BYTES", len(content), what, AnechoicError)
            if time.monotonic() > ends:
                raise self._late()
        return bytes(content)

    def _late(self) -> AnechoicError:
        return AnechoicError(
            f"the generator {self.url} took longer than {self.timeout_s:g} s; allow it more time"
        )

    def _refusal(self, answer: Response, content: bytes) -> str:
        code = f"{answer.status_code} {answer.reason_phrase}".strip()
        if answer.is_redirect:
            return (
                f"the generator {self.url} answered {code}, and a redirect is not followed; give "
                f"the address itself: '{answer.headers.get('Location', '')}'"
            )
        said = " ".join(content[: 4 * SAID].decode("utf-8", "replace").split())[:SAID]
        return f"the generator {self.url} answered {code}{said and f': {said}'}"

    def _sound_of(self, content: bytes) -> bytes:
        """The sound file in an answer of JSON."""
        what = f"the answer of {self.url}"
        found = parse_object(content, what, AnechoicError, "have it answer with a sound file")
        try:
            return base64.b64decode(found["audio"], validate=True)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise AnechoicError(
                f"{what} is JSON without a sound file in base64 as its 'audio'; have it answer so, "
                "or with the file itself"
            ) from error


def _token() -> dict[str, str]:
    token = os.environ.get(TOKEN, "")
    if not token:
        return {}
    if not token.isascii() or not token.isprintable() or " " in token:
        raise BadSetting(f"{TOKEN} holds a character that cannot be sent; set it again")
    return {"Authorization": f"Bearer {token}"}
