"""What an operator sets: by a TOML file, by the environment, or on the command line."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from anechoic.certificate.content import Kept
from anechoic.errors import BadSetting
from anechoic.protection import Policy

PREFIX = "ANECHOIC_SERVE_"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Key(BaseModel):
    """Who may ask: a name for the log, and the SHA-256 of the key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=64)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Settings(BaseSettings):
    """The settings of a service.

    A value given here comes before one of the environment (`ANECHOIC_SERVE_` and the name in
    capitals), and that before one of the file.

    Raises:
        pydantic.ValidationError: `load` makes a sentence of it.

    Example: `Settings(model="demo", queue=16)`
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    model: str = Field(default="demo", description="folder or hub id of a pipeline, or demo")
    index: str | None = Field(
        default=None, description="folder of the index; by default the model's own"
    )
    device: str | None = Field(default=None, description="cuda if there is a GPU, or cpu")
    dtype: str = Field(default="float32", description="float32, bfloat16 or float16")
    steps: Count | None = Field(
        default=None, description="of the sampler; by default the model's own"
    )
    scale: float | None = Field(
        default=None, description="guidance scale; by default the model's own"
    )

    host: str = Field(default="127.0.0.1", description="address to listen on; any other needs keys")
    port: int = Field(default=8000, ge=0, le=65535, description="0: any that is free")
    keys: tuple[Key, ...] = Field(
        default=(), description="who may ask; none: everybody on this machine"
    )

    policy: str = Field(
        default="retry,guard,refuse", description="what is tried when a sound is a copy"
    )
    guard_first: bool = Field(default=False, description="guard the first attempt as well")
    attempts: Count = Field(default=10, description="most that a request's own policy may ask for")

    batch: Count = Field(default=4, description="sounds that a pipeline generates at once")
    pipelines: Count = Field(default=1, description="batches at once; they share the weights")
    queue: Count = Field(default=32, description="sounds that wait; more are answered with 429")
    deadline_s: Positive = Field(default=120.0, description="longest time that a request may take")
    body_bytes: Count = Field(default=32 * 2**20, description="largest body of a request")
    body_s: Positive = Field(
        default=30.0, description="longest time in which a body has to be there"
    )
    longest_s: Positive = Field(default=600.0, description="longest sound that is checked")
    connections: Count = Field(default=256, description="most at once; more are answered with 503")
    keep_s: Positive = Field(default=600.0, description="how long a linked sound can be fetched")
    keep_bytes: Count = Field(
        default=256 * 2**20, description="of all linked sounds; the oldest go first"
    )

    replicas: Count = Field(default=1, description="at least, under `--engine ray`")
    most_replicas: Count | None = Field(default=None, description="that load can start")
    more_after_s: Positive = Field(
        default=30.0, description="how long requests wait before a replica is added"
    )
    fewer_after_s: Positive = Field(
        default=600.0, description="how long there is less to do before a replica is ended"
    )
    cpus: Positive = Field(default=1.0, description="of each replica")
    gpus: float = Field(default=0.0, ge=0, description="of each replica")
    index_actors: Count | None = Field(
        default=None,
        description="that each hold a part of the index for all replicas, under `--engine ray`; by "
        "default each replica opens the whole index",
    )
    index_cpus: Positive = Field(default=1.0, description="of each of them")

    log: Path | None = Field(
        default=None, description="JSON-lines file of all requests and attempts"
    )
    log_prompts: Kept = Field(default="hashed", description="clear, hashed or left out")
    log_bytes: Count = Field(
        default=64 * 2**20, description="size from which on the log is rotated"
    )
    log_files: Count = Field(default=5, description="rotated logs that stay")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Where values come from, the first before the others."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @field_validator("policy")
    @classmethod
    def _can_be_followed(cls, policy: str) -> str:
        refusing(policy)
        return policy

    @model_validator(mode="after")
    def _open_to_others_with_keys_alone(self) -> Settings:
        if self.host not in LOOPBACK and not self.keys:
            raise ValueError(
                f"host {self.host} is open to other machines, and needs keys: make one with "
                "'anechoic serve --new-key NAME', or listen on 127.0.0.1"
            )
        if len({key.name for key in self.keys}) < len(self.keys):
            raise ValueError("two keys have the same name; give each its own")
        return self

    @property
    def index_name(self) -> str:
        """The folder of the index, or the model that brings one."""
        return self.model if self.index is None else self.index


def refusing(policy: str) -> Policy:
    """A policy under which no copy leaves.

    Raises:
        ValueError: it cannot be read, or it lets copies out.
    """
    try:
        parsed = Policy.parse(policy)
    except BadSetting as error:
        raise ValueError(str(error)) from error
    if parsed.end != "refuse":
        raise ValueError(f"a policy ends in 'refuse' here, got {parsed.end!r}; leave that step out")
    return parsed


def load(file: Path | None = None, **given: Any) -> Settings:
    """The settings of a TOML file, the environment, and those given, which come first.

    Raises:
        BadSetting: a setting that does not exist, or with another value than it takes.
    """

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    if file is not None and not file.is_file():
        raise BadSetting(f"there is no file '{file}'; check the path")
    try:
        read = FromFile(**{name: value for name, value in given.items() if value is not None})
        return Settings(**read.model_dump())  # of a class that other processes know
    except ValidationError as error:
        raise BadSetting(f"settings: {sentence(error.errors()[0])}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSetting(f"'{file}' is not TOML ({error}); correct it") from error


def sentence(error: Any) -> str:
    """One error of pydantic as a clause: where, what was expected, what was got."""
    where = ".".join(str(part) for part in error["loc"] if part != "body")
    text = error["msg"].removeprefix("Value error, ")
    text = text[:1].lower() + text[1:]
    got = error.get("input")
    if error["type"] != "value_error" and isinstance(got, (str, int, float)):
        text += f", got {repr(got)[:60]}"
    return f"{where}: {text}" if where else text
