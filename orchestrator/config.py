"""The server's settings: flags, then `TENUTO_*` variables, then `tenuto.toml`, then defaults.

Owns their shape and the words of their errors. Never acts on them.
"""

import dataclasses
import difflib
import ipaddress
import os
import tomllib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from orchestrator.api.auth import ApiKey
from orchestrator.caching.options import CacheOptions
from orchestrator.journal import Synchronous
from orchestrator.limits import Limits
from orchestrator.retention import RULES
from orchestrator.scheduling import POLICIES
from orchestrator.tools.settings import ToolSettings

CONFIG_FILE = "tenuto.toml"
ENV_PREFIX = "TENUTO_"
NO_MODEL = "none"
BUNDLED_MODEL = "bundled"
CLIENT_VARIABLES = frozenset({"TENUTO_URL", "TENUTO_API_KEY", "TENUTO_CONFIG", "TENUTO_CACHE"})
"""Read by the SDK, the command line or the examples, so no misspelt settings."""


class ConfigError(Exception):
    """The settings cannot be used; the message has one line a fault, with key, value and fix."""


def _known_keys_only(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Pydantic drops unknown keys of a plain dataclass; a misspelt limit must not be silently ignored."""
    if isinstance(value, Mapping):
        known = [field.name for field in dataclasses.fields(Limits)]
        for key in value:
            if key not in known:
                raise ValueError(f"there is no limit {key!r}; {_nearest(key, known)}")
    return handler(value)


class EngineOptions(BaseModel):
    """How the local engine runs; what is not given is the engine's own default. Sizes in tokens, blocks, bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    replicas: int = Field(default=1, ge=1, le=64, description="engines of the model side by side; on CUDA one a device")
    device: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    threads: int | None = Field(default=None, ge=0, le=1024)
    context_tokens: int | None = Field(default=None, ge=1)
    token_budget: int | None = Field(default=None, ge=32)
    max_running: int | None = Field(default=None, ge=1)
    queue_limit: int | None = Field(default=None, ge=1)
    kv_blocks: int | None = Field(default=None, ge=1)
    kv_bytes: int | None = Field(default=None, ge=1)
    host_bytes: int | None = Field(default=None, ge=0, description="host memory for KV that leaves the device; 0: none")
    lease_share: float | None = Field(default=None, ge=0, le=1, description="of each tier, what leases may hold")
    debug: bool | None = Field(default=None, description="check every block that is copied between the tiers")
    draft_tokens: int | None = Field(default=None, ge=0, le=64, description="most tokens guessed at once; 0: none")
    trace_steps: float | None = Field(default=None, ge=0, le=1, description="share of steps that become spans")
    compile: bool | None = Field(default=None, description="compile norms and activations for this CPU at the start")


class Settings(BaseSettings):
    """Everything that a server is told when it starts."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
    )

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=7878, ge=0, le=65535, description="0: any free port")
    model: str = Field(default=NO_MODEL, min_length=1, description="a model directory, a hub id, 'bundled' or 'none'")
    engine: EngineOptions = EngineOptions()
    start_wait_s: float = Field(default=60.0, gt=0, description="how long a call waits for an engine that starts")
    journal: Path | None = Field(default=None, description="SQLite file; none: programs do not outlive the process")
    journal_synchronous: Synchronous = Synchronous.NORMAL
    policy: str = "tenuto"
    retention: str = Field(default="tenuto", description="what is kept of a paused program's KV; 'lru': nothing")
    limits: Annotated[Limits, WrapValidator(_known_keys_only)] = Limits()
    api_keys: tuple[ApiKey, ...] = ()
    tools: ToolSettings = ToolSettings()
    semantic_cache: CacheOptions = CacheOptions()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags win over the environment, which wins over the file (handed over as `file_values`)."""
        assert isinstance(init_settings, InitSettingsSource)
        file_values = init_settings.init_kwargs.pop("file_values", {})
        return init_settings, env_settings, InitSettingsSource(settings_cls, file_values)


def load(config: Path | None = None, **flags: Any) -> Settings:
    """The settings; flags that are None are not given. Raises `ConfigError`.

    `config`: the file to read; without it, `tenuto.toml` of the working directory if there is one.
    """
    file = config or Path(CONFIG_FILE)
    file_values = _read(file) if config is not None or file.is_file() else {}
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        settings = Settings(**{**given, "file_values": file_values})
    except ValidationError as fault:
        found = fault.errors(include_url=False)
        lines = [_line(error, given, file_values, file) for error in found]
        raise ConfigError("\n".join(lines)) from None
    except SettingsError as fault:
        fix = f"Give JSON there, or one variable for each key, as {ENV_PREFIX}ENGINE__THREADS=2"
        raise ConfigError(f"{fault}. {fix}") from None
    _check(settings)
    return settings


def misspelt_variables(environment: Mapping[str, str]) -> list[str]:
    """A line for each `TENUTO_*` variable that is no setting, and so has no effect."""
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    lines = []
    for name in sorted(environment):
        section = name.partition("__")[0]
        if name.startswith(ENV_PREFIX) and name not in CLIENT_VARIABLES and section not in known:
            lines.append(f"{name} is no setting and has no effect; {_nearest(name, known)}")
    return lines


@lru_cache(maxsize=64)  # asked with every request
def is_loopback(host: str) -> bool:
    """True if only this machine can reach a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check(settings: Settings) -> None:
    """What one field alone cannot tell."""
    if settings.policy not in POLICIES:
        raise ConfigError(f"policy = {settings.policy!r}: {_nearest(settings.policy, POLICIES)}")
    if settings.retention not in RULES:
        raise ConfigError(f"retention = {settings.retention!r}: {_nearest(settings.retention, RULES)}")
    if not is_loopback(settings.host) and not settings.api_keys:
        raise ConfigError(
            f"host = {settings.host!r}: other machines could use this server without a key. Make a key with "
            "'tenuto key' and put it under [[api_keys]], or listen on 127.0.0.1"
        )
    prefixes = [key.prefix for key in settings.api_keys]
    for prefix in prefixes:
        if prefixes.count(prefix) > 1:
            raise ConfigError(f"api_keys: two keys have the prefix {prefix!r}. Make one of them anew with 'tenuto key'")


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as handle:
            return tomllib.load(handle)
    except OSError as fault:
        raise ConfigError(f"{file}: cannot be read: {fault.strerror}. Give an existing file with --config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise ConfigError(f"{file}: is not TOML: {fault}") from None


def _line(error: ErrorDetails, flags: Mapping[str, Any], file_values: Mapping[str, Any], file: Path) -> str:
    """One fault: key = value (where it was given): what is wrong. What to do."""
    loc = [str(step) for step in error["loc"]]
    key = ".".join(loc)
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        known = Settings.model_fields if len(loc) == 1 else EngineOptions.model_fields
        message = f"is no setting; {_nearest(loc[-1], known)}"
    exact, section = ENV_PREFIX + "__".join(loc).upper(), ENV_PREFIX + loc[0].upper()
    variables = sorted(name for name in os.environ if name == section or name.startswith(f"{exact}__"))
    if given := _flags_of(loc, flags):
        source = ", ".join(f"flag --{flag}" for flag in given)
    elif exact in os.environ or variables:
        source = exact if exact in os.environ else ", ".join(variables)
    elif loc[0] in file_values:
        source = str(file)
    else:
        source = "environment"
    value = error["input"]
    shown = "" if isinstance(value, dict | list) else f" = {value!r}"
    return f"{key}{shown} ({source}): {message.rstrip('.')}. Correct it there, or remove it for the default"


_FLAGS = {"semantic_cache.mode": "cache", "semantic_cache.directory": "cache-dir"}
"""Flags of settings within a section that are not named after their setting."""


def _flags_of(loc: list[str], flags: Mapping[str, Any]) -> list[str]:
    """The flags that gave a setting, as they are typed."""
    section = flags.get(loc[0])
    if not isinstance(section, Mapping):
        return [loc[0].replace("_", "-")] if loc[0] in flags else []
    names = [name for name in section if name in loc[1:2] or len(loc) == 1]
    return [_FLAGS.get(f"{loc[0]}.{name}", name.replace("_", "-")) for name in names]


def _nearest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"the nearest is {near[0]!r}" if near else f"choose one of: {', '.join(names)}"
