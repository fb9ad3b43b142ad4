"""What requests and answers hold, as the OpenAPI description shows it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from anechoic_serve.settings import refusing

Format = Literal["wav", "flac", "mp3"]
MEDIA: dict[Format, str] = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg"}
EXAMPLE: dict[str, Any] = {"prompt": "low cello note", "seed": 3, "format": "flac"}


class Generate(BaseModel):
    """What to generate."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [EXAMPLE, {**EXAMPLE, "n": 2, "links": True}]},
    )

    prompt: str = Field(min_length=1, max_length=1000, description="what is to sound")
    seconds: float | None = Field(
        default=None,
        gt=0,
        le=3600,
        allow_inf_nan=False,
        description="length; by default the model's own",
    )
    seed: int | None = Field(
        default=None, ge=0, lt=2**32,
        description="of the first sound's first attempt, one more for each further sound; by "
        "default a random one",
    )  # fmt: skip
    n: int = Field(default=1, ge=1, le=64, description="sounds; more than one come as links")
    policy: str | None = Field(
        default=None,
        max_length=200,
        description="what is tried when a sound is a copy, as 'retry:2,guard'; by default the "
        "service's own. It always ends in refusal.",
        examples=["retry:2,guard"],
    )
    format: Format = Field(default="wav", description="of the sound")
    links: bool = Field(default=False, description="answer with JSON that links to the sounds")
    deadline_s: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="give up after so many seconds"
    )

    @field_validator("prompt")
    @classmethod
    def _says_something(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("is empty; say what is to sound")
        return prompt

    @field_validator("policy")
    @classmethod
    def _refuses(cls, policy: str | None) -> str | None:
        if policy is not None:
            refusing(policy)
        return policy


class Detected(BaseModel):
    """What one detector says of a sound."""

    detector: str
    verdict: Literal["copy", "no copy", "not judged"]
    score: float | None
    limit: float | None
    p_value: float | None


class AttemptMade(BaseModel):
    """One generation."""

    attempt: str
    seed: int | None
    guard: str | None
    verdict: Literal["copy", "no copy", "not judged"]
    seconds: float
    detectors: list[Detected]


class SoundMade(BaseModel):
    """What became of one sound; without a link, nothing leaves."""

    verdict: Literal["released", "regenerated", "refused", "not judged"]
    url: str | None = Field(description="of the sound, for as long as the service keeps it")
    certificate: dict[str, Any] | None
    attempts: list[AttemptMade]


class Sounds(BaseModel):
    """All sounds of a request."""

    request: str
    seed: int
    sounds: list[SoundMade]


class Checked(BaseModel):
    """The verdict on a file."""

    verdict: Literal["copy", "no copy"]
    detectors: list[Detected]
    certificate: dict[str, Any] | None = Field(description="of a file that is no copy")


class Limit(BaseModel):
    """How a detector judges."""

    detector: str
    limit: float | None
    false_positive_rate: float | None
    held_out: int | None = Field(description="sounds that the limit was calibrated on")


class IndexShown(BaseModel):
    """The index that sounds are compared with."""

    name: str
    content: str = Field(description="hash of its content")
    clips: int
    embedder: str
    model: str | None = Field(description="fingerprint of the model that was trained on the clips")
    detectors: list[Limit]
    promise: str


class Ready(BaseModel):
    """Whether sound can be generated and verified."""

    ready: bool
    reason: str = Field(description="why not")


class Problem(BaseModel):
    """Why there is no other answer."""

    detail: Annotated[str, Field(examples=["64 sounds wait, and at most 64 may; try again later"])]
