"""The agent's settings: defaults, then a TOML file, then the environment, then the command line.

The later source wins. The command line loads them once and passes them down. The environment
names nested settings with two underscores: `HILUM_EDGE__GRPC__PORT=50052`.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from edge_agent.errors import ConfigInvalid

ENV_PREFIX: Final = "HILUM_EDGE__"


def _default_cache_dir() -> Path:
    # XDG Base Directory Specification 0.8: a relative path in the variable must be ignored.
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "hilum"


def _default_state_dir() -> Path:
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".local/state") / "hilum"


ModelPlace = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GrpcSettings(_Frozen):
    """The gRPC port. Port 0 lets the system choose a free one.

    `stream_concurrency` is the number of images of one stream that are processed at a time.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 50051
    stream_concurrency: Annotated[int, Field(ge=1, le=1024)] = 8

    @property
    def address(self) -> str:
        """Return `host:port`, with brackets around an IPv6 host."""
        return format_address(self.host, self.port)


class HttpSettings(_Frozen):
    """The HTTP port, which also serves the page.

    `hosts` are further names of this machine, `origins` other pages that may send requests.
    """

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()


class TlsSettings(_Frozen):
    """PEM files for both ports. With `client_ca`, gRPC clients must show a certificate."""

    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both or neither")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("client_ca needs certificate and key")
        return self


class AccessSettings(_Frozen):
    """Files of API keys (`hilum-edge keys`) and of rules that give client certificates a role."""

    keys: Path | None = None
    certificate_rules: Path | None = None


class AuditSyslogSettings(_Frozen):
    """The audit record repository that gets every entry as an IHE ATNA message, by TLS.

    Without a `host` none is sent. Without a `ca` the system's certificates count.
    """

    host: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = 6514
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    site: Annotated[str, Field(pattern=r"^[ -~]{0,64}$")] = ""

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both or neither")
        return self


class AuditSettings(_Frozen):
    """The log of every access. A `folder` of None means `audit` in the state folder.

    It can be switched off only if both ports are for this machine alone. Exported entries are
    removed after `retention_days`, if it is set. Beyond `max_bytes` the oldest are removed, whether
    they were exported or not.
    """

    enabled: bool = True
    folder: Path | None = None
    reserve_entries: Annotated[int, Field(ge=700, le=10_000_000)] = 200_000
    retention_days: Annotated[int, Field(ge=1, le=36_500)] | None = None
    max_bytes: Annotated[int, Field(ge=1 << 24, le=1 << 40)] = 2 << 30
    syslog: AuditSyslogSettings = AuditSyslogSettings()


class DecodeSettings(_Frozen):
    """The decoder processes. With 0 workers threads decode, which is for trusted files only.

    `timeout_s` is for one image, `memory_bytes` for one process beyond what it holds when idle.
    """

    workers: Annotated[int, Field(ge=0, le=256)] = 2
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    memory_bytes: Annotated[int, Field(ge=1 << 26, le=1 << 38)] = 1 << 30


class EngineSettings(_Frozen):
    """The engine variant that runs, and its number of threads (0 for one per core).

    An engine whose batch runs longer than `hang_timeout_s` counts as hanging.

    While the agent serves, a bundle that is activated or becomes a shadow may hold
    `change_memory_bytes` and take `change_timeout_s` to open. A shadow may use `shadow_cpu_share`
    of one core.
    """

    variant: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")] = "auto"
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    hang_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    change_memory_bytes: Annotated[int, Field(ge=1 << 26, le=1 << 40)] = 2 << 30
    change_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 300.0
    shadow_cpu_share: Annotated[float, Field(gt=0, le=1)] = 0.1


class LimitSettings(_Frozen):
    """Bounds on requests. `queue_size` counts the requests that wait or run.

    `waiting_bytes` bounds the sum of their images' bytes, as sent.
    """

    max_image_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 30)] = 128 << 20
    max_pixels: Annotated[int, Field(ge=1 << 16, le=1 << 30)] = 64_000_000
    queue_size: Annotated[int, Field(ge=1, le=100_000)] = 64
    waiting_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 38)] = 1 << 30


class Settings(BaseSettings):
    """All settings of `hilum-edge`. An unknown name is an error."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENV_PREFIX, env_nested_delimiter="__"
    )

    bundle: Path | None = None  # None means the starter that comes with the package.
    models: dict[ModelPlace, Path] = {}  # Further bundles, which requests ask for by name.
    cache_dir: Path = Field(default_factory=_default_cache_dir)
    state_dir: Path = Field(default_factory=_default_state_dir)
    drain_timeout_s: Annotated[float, Field(ge=0, le=3600)] = 20.0
    grpc: GrpcSettings = GrpcSettings()
    http: HttpSettings = HttpSettings()
    tls: TlsSettings = TlsSettings()
    access: AccessSettings = AccessSettings()
    audit: AuditSettings = AuditSettings()
    decode: DecodeSettings = DecodeSettings()
    engine: EngineSettings = EngineSettings()
    limits: LimitSettings = LimitSettings()

    @field_validator("models")
    @classmethod
    def _check_places(cls, models: dict[str, Path]) -> dict[str, Path]:
        if "default" in models:
            raise ValueError("the default model is set by bundle")
        return models

    @property
    def socket(self) -> Path:
        """Return the socket over which the agent's user changes the running agent."""
        return self.state_dir / "agent.sock"

    @property
    def audit_dir(self) -> Path:
        """Return the audit log's folder."""
        return self.audit.folder or self.state_dir / "audit"


def format_address(host: str, port: int) -> str:
    """Return `host:port` as gRPC and URLs write it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def load_settings(
    file: Path | None = None, overrides: Mapping[str, object] | None = None
) -> Settings:
    """Load the settings from all sources.

    Args:
        file: a TOML file.
        overrides: nested values from the command line, which win.

    Returns:
        The validated settings.

    Raises:
        ConfigInvalid: a source cannot be read, or a name or a value is wrong.
    """
    from_file = _read_toml(file) if file else {}

    class Sourced(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # passed by name
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # passed by name
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, from_file)

    _check_environment_names()
    try:
        return Sourced(**dict(overrides or {}))  # type: ignore[arg-type]  # names checked by pydantic
    except ValidationError as error:
        raise ConfigInvalid(
            "The settings cannot be used: " + "; ".join(map(_describe_problem, error.errors())),
            hint=_source_hint(file),
        ) from None
    except SettingsError as error:
        raise ConfigInvalid(
            f"The environment's settings cannot be read: {error}.",
            hint=_source_hint(file),
        ) from None


def _read_toml(file: Path) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigInvalid(
            f"The settings file {file} cannot be read: {error.strerror}.",
            hint="Give a TOML file that this user may read.",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigInvalid(
            f"The settings file {file} is not TOML: {error}.",
            hint="Write sections such as [grpc] with lines such as port = 50051.",
        ) from None


def _check_environment_names() -> None:
    # pydantic-settings ignores a misspelt top-level variable. Its user believes that it counts.
    unknown = sorted(
        name
        for name in os.environ
        if name.upper().startswith(ENV_PREFIX)
        and name[len(ENV_PREFIX) :].split("__")[0].lower() not in Settings.model_fields
    )
    if unknown:
        raise ConfigInvalid(
            f"The environment names settings that do not exist: {', '.join(unknown)}.",
            hint=f"Known after {ENV_PREFIX}: "
            + ", ".join(name.upper() for name in Settings.model_fields)
            + ".",
        )


def _describe_problem(problem: Mapping[str, object]) -> str:
    location = problem["loc"]
    where = ".".join(map(str, location)) if isinstance(location, tuple) else str(location)
    if problem["type"] == "extra_forbidden":
        return f"{where}: there is no such setting"
    reason = str(problem["msg"]).removeprefix("Value error, ")
    return f"{where}: {reason}"


def _source_hint(file: Path | None) -> str:
    source = str(file) if file else "the file given by --config"
    return f"Correct {source}, the environment ({ENV_PREFIX}...) or the command line."
