"""Every environment variable the store reads, in one class. Anything may import it; only a `main.py` constructs it."""

import ipaddress
import json
from functools import cached_property
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class ModelSettings(BaseModel):
    """What `MODELS` says of a model; what it leaves out is known by the model's name. Prices in US dollars for 1,000,000 tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window: Annotated[int, Field(gt=0)] | None = None
    encoding: Literal["o200k_base", "cl100k_base"] | None = None
    safety: Annotated[float, Field(gt=0, le=1)] | None = None
    input_price: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    cached_input_price: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    output_price: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class Settings(BaseSettings):
    """The environment of one process. A field's name in capitals is its variable; the README's table lists them all."""

    model_config = SettingsConfigDict(env_file=None, extra="ignore", frozen=True)

    postgres_url: str = Field(
        "postgresql://postgres@127.0.0.1:5432/conversations", description="The event store: a libpq URL."
    )
    mongodb_url: str = Field(
        "mongodb://127.0.0.1:27017/conversations?replicaSet=rs0",
        description="The read models: a MongoDB URL of a replica set; its path names the database.",
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0", description="Context snapshots and live streams: Redis or Valkey."
    )
    openai_base_url: str = Field("", description="Any OpenAI-compatible API, with its `/v1`. Empty: no model.")
    openai_api_key: SecretStr = Field(SecretStr("none"), description="The key sent to `OPENAI_BASE_URL`.")
    default_model: str = Field(
        "", description="The model of a reply that names none. Empty: the first the provider lists."
    )
    default_models: Annotated[dict[str, str], NoDecode] = Field(
        {}, description='`DEFAULT_MODEL` of single tenants: `{"tenant": "model"}`.'
    )
    model_api: Literal["chat", "responses"] = Field(
        "chat", description="What the provider is asked with: `/chat/completions`, or `/responses`."
    )
    models: Annotated[dict[str, ModelSettings], NoDecode] = Field(
        {},
        description="What is known of models better than by their names, any of: "
        '`{"name": {"window": 8192, "encoding": "o200k_base", "safety": 0.8, "input_price": 1, "cached_input_price": 0.1, '
        '"output_price": 2}}`. Prices in US dollars for 1,000,000 tokens.',
    )
    model_window: int = Field(
        0, ge=0, description="The models' context window in tokens; 0: known by the model's name."
    )
    model_timeout: float = Field(
        120.0, gt=0, description="Seconds a model may take to answer, or between two pieces of it."
    )
    idempotency_hours: float = Field(
        24.0, gt=0, le=100_000, description="How long the first answer of an `Idempotency-Key` is given again."
    )
    auth_mode: Literal["none"] = Field("none", description="`none`: one fixed principal, and only on loopback.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="The least level that is logged."
    )
    log_format: Literal["ecs", "console"] = Field(
        "ecs", description="`ecs`: JSON lines for ELK. `console`: for people."
    )
    host: str = Field("127.0.0.1", description="The address a process listens on.")
    port: int = Field(8000, ge=0, le=65535, description="The port a process listens on; 0 takes a free one.")
    metrics_port: int = Field(0, ge=0, le=65535, description="Where the projector serves /metrics; 0 takes a free one.")
    trusted_network: bool = Field(
        False,
        description="Says that only a trusted network reaches this process, so that `AUTH_MODE=none` may leave loopback.",
    )

    @field_validator("default_models", "models", mode="before")
    @classmethod
    def _object_of(cls, given: Any) -> Any:
        """A variable is JSON text; an empty one is as none."""
        if not isinstance(given, str):
            return given
        try:
            return json.loads(given) if given.strip() else {}
        except RecursionError as error:
            raise ValueError("is nested too deeply") from error

    @model_validator(mode="after")
    def _no_open_door(self) -> Self:
        if self.auth_mode == "none" and not self.trusted_network and not _is_loopback(self.host):
            raise ValueError(
                f"AUTH_MODE=none listens on loopback only, and HOST is {self.host!r}: "
                "bind 127.0.0.1, or say TRUSTED_NETWORK=true where nothing else can reach this process"
            )
        return self

    @cached_property
    def mongodb_database(self) -> str:
        """The database named by the path of `MONGODB_URL`; `conversations` where it names none."""
        return urlsplit(self.mongodb_url).path.lstrip("/") or "conversations"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
