"""Every environment variable that the store reads."""

import json
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from infrastructure.hosts import is_loopback, parse_host_name, parse_origin
from infrastructure.rate_limits import RECOMMENDED, RateLimits
from infrastructure.tenant_defaults import TenantDefaults

_HOST = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(:[0-9]*)?")

MIN_SECRET_BYTES = 32
"""For HS256 (RFC 7518, 3.2)."""


ChatCompletionsStore = Literal["always", "requested", "never"]


class ModelSettings(BaseModel):
    """One model in `MODELS`. A field that is absent is looked up. Prices are in US dollars per 1,000,000 tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window: Annotated[int, Field(gt=0, lt=2**31)] | None = None
    output: Annotated[int, Field(gt=0, lt=2**31)] | None = None
    encoding: Literal["o200k_base", "cl100k_base"] | None = None
    safety: Annotated[float, Field(gt=0, le=1)] | None = None
    accepts: frozenset[Literal["image", "file", "audio", "tools", "custom_tools"]] | None = None
    input_price: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    cached_input_price: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    output_price: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None

    @property
    def names_a_price(self) -> bool:
        return any(price is not None for price in (self.input_price, self.cached_input_price, self.output_price))


class Settings(BaseSettings):
    """The environment variables of one process. The variable of a field is the field's name in capitals."""

    # An error must not print the values, because some are secrets.
    model_config = SettingsConfigDict(env_file=None, extra="ignore", frozen=True, hide_input_in_errors=True)

    postgres_url: str = Field(
        "postgresql://postgres@127.0.0.1:5432/conversations", repr=False, description="The event store: a libpq URL."
    )
    mongodb_url: str = Field(
        "mongodb://127.0.0.1:27017/conversations?replicaSet=rs0",
        repr=False,
        description="The views: the URL of a MongoDB replica set. Its path names the database.",
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        repr=False,
        description="Context snapshots, live events of replies, and the counts for `RATE_LIMITS`: Redis or Valkey.",
    )
    openai_base_url: str = Field(
        "", repr=False, description="The model provider: any OpenAI-compatible API, `/v1` included. Empty: none."
    )
    openai_api_key: SecretStr = Field(SecretStr("none"), description="The API key sent to the model provider.")
    default_model: str = Field(
        "", description="The model for a request that names none. Empty: the first model that the provider lists."
    )
    tenant_defaults: Annotated[dict[str, TenantDefaults], NoDecode] = Field(
        {},
        description="By tenant: the model for a request that names none, and the context policy of new conversations. "
        '`{"acme": {"model": "gpt-5-mini", "context_policy": {"stopped": "keep"}}}`. Every field is optional.',
    )
    default_models: str = Field("", description="Not used any more. `TENANT_DEFAULTS` has taken its place.")
    model_api: Literal["chat", "responses"] = Field(
        "chat", description="The provider's API to use: `chat` (`/chat/completions`) or `responses` (`/responses`)."
    )
    models: Annotated[dict[str, ModelSettings], NoDecode] = Field(
        {},
        description="Facts about models. They replace what the provider lists, what is looked up by name, and what was learnt. Every field is "
        'optional: `{"name": {"window": 8192, "output": 2048, "encoding": "o200k_base", "safety": 0.8, "accepts": ["image", "file", "audio", '
        '"tools", "custom_tools"], "input_price": 1, "cached_input_price": 0.1, "output_price": 2}}`. `window` and `output` (the longest answer) '
        "in tokens; `safety` (0 to 1): how much of the window may be filled, after the room for the answer is subtracted; `accepts`: all that "
        "the model takes besides text; prices in US dollars per 1,000,000 tokens.",
    )
    model_window: int = Field(
        0,
        ge=0,
        description="The context window of every model without a `window` in `MODELS`, in tokens. 0: it is looked up.",
    )
    model_timeout: float = Field(
        120.0,
        gt=0,
        description="Seconds to wait while the provider reads nothing of a request, for a model's answer to begin, and for each next part of it. Keep-alives and empty parts do not count.",
    )
    idempotency_hours: float = Field(
        24.0,
        gt=0,
        le=100_000,
        description="Hours for which a repeated `Idempotency-Key` is answered with the first answer.",
    )
    comment_seconds: float = Field(
        15.0,
        gt=0,
        description="Seconds after which a stream that has no events sends a comment. Set it below the time after which a proxy "
        "closes a silent connection.",
    )
    chat_completions_store: ChatCompletionsStore = Field(
        "always",
        description="Which Chat Completions are stored. `always`: all but those with `store: false`. `requested`: those with `store: true`. `never`: none.",
    )
    titles: Literal["off", "auto"] = Field(
        "off",
        description="`auto`: after a reply in a conversation without a title, its model is asked for one, in the background. `off`: only people give titles.",
    )
    rate_limits: Annotated[RateLimits, NoDecode] = Field(
        RateLimits(),
        description="How much a tenant, a subject and an API key may do: "
        '`{"tenant": {"requests": 6000}, "subject": {"replies": 10}, "overrides": {"acme": {"requests": 60000}}}`, or `recommended`. '
        "Limits: `requests` and `tokens` in any minute; `requests_a_second`; `replies`, `background` (replies) and `followers` at once; `tokens_a_month`. "
        "Empty: none.",
    )
    auth_mode: Literal["none", "jwt", "keys", "jwt,keys"] = Field(
        "none",
        description="Who may use the store. `none`: everybody, without a credential; the process listens on loopback only. `jwt`: tokens of "
        "your user service. `keys`: API keys of this store. `jwt,keys`: both.",
    )
    auth_secret: SecretStr = Field(
        SecretStr(""),
        description="The secret that tokens are signed with: HS256 with 32 bytes or more, HS384 with 48, HS512 with 64. Empty: `AUTH_JWKS_URL` has the keys.",
    )
    auth_jwks_url: str = Field(
        "",
        repr=False,
        description="Where the user service publishes the keys of its tokens, as a JWK Set: RS256, ES256 and EdDSA. Empty: `AUTH_SECRET` is the key.",
    )
    auth_audience: str = Field(
        "",
        description="The `aud` that a token must have. Empty: a token with an `aud` is refused, because it is for another service.",
    )
    auth_issuer: str = Field("", description="The `iss` that a token must have. Empty: any.")
    auth_tenant_claim: str = Field("tenant", min_length=1, description="The claim of a token that names the tenant.")
    auth_subject_claim: str = Field("sub", min_length=1, description="The claim of a token that names the user.")
    auth_scope_claim: str = Field(
        "scope",
        min_length=1,
        description="The claim of a token with its scopes: words with spaces between them, or a list.",
    )
    auth_clock_skew: float = Field(
        30.0, ge=0, le=600, description="Seconds by which the clocks of the user service and of this store may differ."
    )
    store_api_key: SecretStr = Field(
        SecretStr(""), description="The API key that `scripts/run load` sends to a store with `AUTH_MODE=keys`."
    )
    allowed_hosts: Annotated[frozenset[str], NoDecode] = Field(
        frozenset(),
        description="Without a login: the host names, besides `localhost`, 127.0.0.0/8 and `[::1]`, that a request's `Host` may have, on any "
        "port. Separated by commas.",
    )
    cors_origins: Annotated[frozenset[str], NoDecode] = Field(
        frozenset(),
        description="The web pages of other addresses that may use the store, by their origins: `https://chat.example.com`. Separated by "
        "commas. Empty: none.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Logs below this level are not written."
    )
    log_format: Literal["ecs", "console"] = Field(
        "ecs", description="`ecs`: JSON lines of the Elastic Common Schema. `console`: text for people."
    )
    host: str = Field("127.0.0.1", description="The address a process listens on.")
    port: int = Field(8000, ge=0, le=65535, description="The port a process listens on. 0: any free port.")
    metrics_host: str = Field("127.0.0.1", description="The address on which a process serves `METRICS_PORT`.")
    metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="The port of a process's `/metrics`, and of the projector's `/health/live` and `/health/ready`. 0: any free port, which the log names.",
    )
    trusted_network: bool = Field(
        False,
        description="`true`: only a trusted network reaches this process, so `AUTH_MODE=none` may listen on other addresses.",
    )

    @field_validator("tenant_defaults", "models", "rate_limits", mode="before")
    @classmethod
    def _parse_json(cls, value: Any, info: ValidationInfo) -> Any:
        """An empty text counts as absent."""
        if not isinstance(value, str):
            return value
        if info.field_name == "rate_limits" and value.strip() == "recommended":
            return RECOMMENDED
        try:
            return json.loads(value) if value.strip() else {}
        except RecursionError as error:
            raise ValueError("is nested too deeply") from error
        except ValueError as error:
            if info.field_name != "rate_limits":
                raise
            raise ValueError(f"is neither JSON nor the word `recommended`: {error}") from error

    @field_validator("default_models")
    @classmethod
    def _refuse_default_models(cls, value: str) -> str:
        if value.strip():
            raise ValueError(
                'DEFAULT_MODELS is not used any more: set TENANT_DEFAULTS={"<tenant>": {"model": "<model>"}} instead'
            )
        return ""

    @field_validator("postgres_url", "mongodb_url", "redis_url")
    @classmethod
    def _refuse_ambiguous_url(cls, value: str) -> str:
        """A password with an unescaped `/`, `?` or `#` would be read as host and port, and errors would show it."""
        _, is_url, rest = value.partition("://")
        hosts = re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")[2].split(",")
        if is_url and not all(_HOST.fullmatch(host) for host in hosts):
            raise ValueError(
                "is not a valid URL: in a password, `/`, `?`, `#` and `@` are written as %2F, %3F, %23 and %40"
            )
        return value

    @field_validator("auth_mode", mode="before")
    @classmethod
    def _order_modes(cls, value: Any) -> Any:
        """Sorts the modes. `none` must stand alone."""
        if not isinstance(value, str):
            return value
        modes = {mode.strip() for mode in value.split(",")}
        if "none" in modes and len(modes) > 1:
            raise ValueError("`none` stands alone: it lets everybody in, so another mode beside it would never be used")
        return ",".join(sorted(modes))

    @model_validator(mode="after")
    def _need_one_key_for_tokens(self) -> Self:
        secret = self.auth_secret.get_secret_value().encode()
        if "jwt" not in self.auth_mode:
            return self
        if bool(secret) == bool(self.auth_jwks_url):
            raise ValueError(f"AUTH_MODE={self.auth_mode} needs either AUTH_SECRET or AUTH_JWKS_URL, and not both")
        if secret and len(secret) < MIN_SECRET_BYTES:
            raise ValueError(f"AUTH_SECRET must have at least {MIN_SECRET_BYTES} bytes: a shorter one can be guessed")
        if self.auth_jwks_url and not _is_http(self.auth_jwks_url):
            raise ValueError("AUTH_JWKS_URL must be an http or https URL")
        return self

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _parse_hosts(cls, value: Any) -> Any:
        names = _listed(value) if isinstance(value, str) else value
        for name in names:
            if parse_host_name(name) is None:
                raise ValueError(
                    f"{name!r} is not a host: write `chat.example.com` or `10.0.0.5`, without a port or `*`"
                )
        return names

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _parse_origins(cls, value: Any) -> Any:
        origins = _listed(value) if isinstance(value, str) else value
        for origin in origins:
            if parse_origin(origin) is None:
                raise ValueError(
                    f"{origin!r} is not an origin: write `https://chat.example.com` or `http://localhost:3000`, without a path or `*`. "
                    "`null` cannot be allowed: any web page can have it"
                )
        return origins

    @model_validator(mode="after")
    def _refuse_open_access(self) -> Self:
        if self.auth_mode == "none" and not self.trusted_network and not is_loopback(self.host):
            raise ValueError(
                f"AUTH_MODE=none listens on loopback only, and HOST is {self.host!r}: "
                "set HOST to 127.0.0.1, or TRUSTED_NETWORK=true if only a trusted network reaches this process"
            )
        return self

    @cached_property
    def secrets(self) -> frozenset[str]:
        values = [value.get_secret_value() for _, value in self if isinstance(value, SecretStr)]
        for url in (self.postgres_url, self.mongodb_url, self.redis_url, self.openai_base_url, self.auth_jwks_url):
            values += _passwords(url)
        return frozenset(value for value in values if value)

    @cached_property
    def mongodb_database(self) -> str:
        return urlsplit(self.mongodb_url).path.lstrip("/") or "conversations"


def _passwords(url: str) -> Iterator[str]:
    """Reads URLs, and libpq connection strings such as `host=db password=…`."""
    credentials, found, _ = url.partition("//")[2].rpartition("@")
    if found and ":" in credentials:
        yield unquote(credentials.partition(":")[2])
    for match in re.finditer(r"(?i)password=('[^']*'|[^&\s]*)", url):
        yield unquote(match[1].strip("'"))


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
