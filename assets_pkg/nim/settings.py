"""The server's settings: from NIM's environment variables, a few of its own, and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from assets_pkg.nim.batching import DEFAULT_BATCH_TOKENS

ENVIRONMENT: dict[str, tuple[str, ...]] = {
    "model_dir": ("NIM_CUSTOM_MODEL", "NIM_MODEL_PATH"),
    "port": ("NIM_HTTP_API_PORT",),
    "grpc_port": ("NIM_GRPC_API_PORT",),
    "served_names": ("NIM_SERVED_MODEL_NAME",),
    "model_version": ("MODEL_VERSION",),
    "max_length": ("NIM_TRITON_MAX_SEQ_LENGTH", "NIM_PIPELINE_MAX_SEQ_LEN", "MAX_SEQUENCE_LENGTH"),
    "max_batch_size": ("NIM_TRITON_MAX_BATCH_SIZE", "NIM_PIPELINE_MAX_BATCH_SIZE"),
    "max_client_batch_size": ("NIM_MAX_CLIENT_BATCH_SIZE",),
    "body_limit_bytes": ("NIM_SERVER_HTTP_BODY_LIMIT_BYTES",),
    "max_queue_requests": ("NIM_SERVER_MAX_QUEUE_SIZE",),
    "gather_ms": ("NIM_SERVER_MAX_WAIT_MS",),
    "request_timeout_s": ("NIM_SERVER_REQUEST_TIMEOUT_S",),
    "workers": ("NIM_ENGINE_COUNT",),
    "log_level": ("NIM_LOG_LEVEL", "LOG_LEVEL"),
    "log_json": ("NIM_JSONL_LOGGING",),
    "log_file": ("RETUNE_LOG_FILE",),
    "access_log": ("RETUNE_ACCESS_LOG",),
    "tracing": ("NIM_ENABLE_OTEL",),
    "cors_origins": ("RETUNE_CORS_ORIGINS",),
    "require_input_type": ("RETUNE_REQUIRE_INPUT_TYPE",),
    "default_truncate": ("RETUNE_DEFAULT_TRUNCATE",),
    "api_key": ("RETUNE_API_KEY",),
    "tls_cert_path": ("NIM_TLS_CERT_PATH",),
    "tls_key_path": ("NIM_TLS_KEY_PATH",),
    "batch_tokens": ("RETUNE_BATCH_TOKENS",),
    "max_queue_tokens": ("RETUNE_MAX_QUEUE_TOKENS",),
    "read_timeout_s": ("RETUNE_READ_TIMEOUT_S",),
    "drain_grace_s": ("RETUNE_DRAIN_GRACE_S",),
}
"""The variables of each setting; the first that is set and not empty is used."""

BIND_VARIABLE = "NIM_SERVER_BIND_ADDR"
"""Host and port as ``host:port``, as in NIM 2."""

PREFIX = "NIM_"
TLS_PREFIX = "NIM_TLS_"
CLIENT_BATCH_SIZE = 2048

Port = Annotated[int, Field(ge=0, le=65535)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]

_LEVELS = {"DEFAULT": "INFO", "TRACE": "DEBUG", "WARN": "WARNING"}


def _level(value: Any) -> Any:
    return _LEVELS.get(value.upper(), value.upper()) if isinstance(value, str) else value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _names(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return value


F = TypeVar("F", bound="FrontSettings")


class SettingsError(Exception):
    """A setting is invalid; the message is one line and names the setting, never its value."""


class FrontSettings(BaseModel):
    """What a server lets in; see `assets_pkg.nim.front`."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True
    )

    api_key: SecretStr | None = None
    """The key that clients must send for embeddings, as a bearer token; none is asked for unless set."""
    body_limit_bytes: PositiveInt = 16 * 2**20
    """The largest body of a request, in bytes."""
    max_queue_requests: PositiveInt = 1024
    """The most requests at a time; further ones are answered with 503."""
    tls_cert_path: Path | None = None
    """The certificate in PEM, with those between it and its root; then HTTPS is served, and no plain HTTP."""
    tls_key_path: Path | None = None
    """The private key of the certificate, in PEM and without a password."""
    request_timeout_s: PositiveFloat = 120.0
    """The seconds in which a request must be answered; then it is answered with 503."""
    read_timeout_s: PositiveFloat = 20.0
    """The seconds in which a request's body must arrive; then it is answered with 408."""


class ObservedSettings(FrontSettings):
    """What a server says of itself."""

    log_level: Annotated[LogLevel, BeforeValidator(_level)] = "INFO"
    """DEBUG, INFO, WARNING, ERROR or CRITICAL."""
    log_json: bool = False
    """Log one JSON object a line."""
    log_file: Path | None = None
    """A file to log to, in place of standard error; at 16 MiB it is rotated, and four older ones are kept."""
    access_log: bool = True
    """Log one line for each request; for probes of health and metrics that succeed only at the level DEBUG."""
    tracing: bool = False
    """Send OpenTelemetry traces over OTLP, to where the standard ``OTEL_*`` variables say; needs the extra `otel`."""


class DrainSettings(FrontSettings):
    """What decides how long a server takes to stop."""

    drain_grace_s: Annotated[float, Field(ge=0)] = 1.0
    """How many seconds after a signal to stop the server still accepts connections, reporting that it is not ready."""


class ServerSettings(DrainSettings, ObservedSettings):
    """All settings, with the closed NIM's defaults where these are documented."""

    model_dir: Path
    """The model folder."""
    host: str = "127.0.0.1"
    """The address to listen on, of HTTP and gRPC."""
    port: Port = 8000
    """The port of HTTP."""
    grpc_port: Port | None = None
    """The port of the Open Inference Protocol over gRPC; not served unless set."""
    reuse_port: bool = False
    served_names: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
    """The names that the server answers to, its own first; the folder's model_id is always one of them."""
    model_version: str | None = None
    """The version in /v1/metadata; by default the first digits of the model's digest."""
    max_length: PositiveInt | None = None
    """The most tokens of a text, at most the model's own."""
    max_batch_size: PositiveInt | None = None
    """The most texts in a request, where the client limit is not set."""
    max_client_batch_size: PositiveInt | None = None
    """The most texts in a request; 2048 where neither limit is set."""
    cors_origins: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
    """The origins whose pages may ask from a browser (CORS), separated by commas; ``*`` for any. By default none."""
    require_input_type: bool = False
    """Refuse a request without ``input_type``, as the closed NIM does."""
    default_truncate: Annotated[Literal["NONE", "END", "START"], BeforeValidator(_upper)] = "NONE"
    """What is done with a text that is too long where the request says nothing: an error, or cut END or START."""
    max_queue_tokens: PositiveInt = 2**19
    """The most tokens that wait for a batch; further requests are answered with 503."""
    batch_tokens: PositiveInt = DEFAULT_BATCH_TOKENS
    """The most tokens in a batch, padding included."""
    gather_ms: Annotated[float, Field(ge=0)] = 10.0
    """How many milliseconds a batch may wait for more texts, where requests come in bursts and fewer are open than
    lately."""
    workers: PositiveInt | None = None
    """Batches run in parallel; by default one for each core that the process may use."""

    @property
    def client_batch_limit(self) -> int:
        return self.max_client_batch_size or self.max_batch_size or CLIENT_BATCH_SIZE


def settings_from(environment: Mapping[str, str], arguments: Mapping[str, Any]) -> ServerSettings:
    """Settings from the environment, overridden by those ``arguments`` that are not ``None``.

    Raises:
        SettingsError: a value cannot be parsed or is out of range, there is no model folder, or TLS is asked for in
            part.
    """
    require_tls_pair(environment)
    values, sources = _from_environment(environment)
    for setting, value in arguments.items():
        if value is not None:
            values[setting], sources[setting] = value, "--" + setting.replace("_", "-")
    if "model_dir" not in values:
        raise SettingsError(f"no model folder: give --model-dir or set {ENVIRONMENT['model_dir'][0]}")
    return _validated(ServerSettings, values, sources)


def front_settings_from(kind: type[F], environment: Mapping[str, str]) -> F:
    """The settings of another server, from the same variables. Raises `SettingsError`."""
    require_tls_pair(environment)
    values, sources = _from_environment(environment)
    known = {setting: value for setting, value in values.items() if setting in kind.model_fields}
    return _validated(kind, known, sources)


def listen_address(
    environment: Mapping[str, str], host: str | None, port: int | None, default_port: int
) -> tuple[str, int]:
    """Where a server listens that was given these arguments, or none. Raises `SettingsError`."""
    values, sources = _from_environment(environment)
    given = {name: values[name] for name in ("host", "port") if name in values}
    given |= {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    chosen = _validated(ServerSettings, {"model_dir": ".", "port": default_port, **given}, sources)
    return chosen.host, chosen.port


def require_tls_pair(environment: Mapping[str, str]) -> None:
    """Raises `SettingsError` where TLS is asked for in a way that this server cannot do: less must not be served in
    its place."""
    pair = [ENVIRONMENT[name][0] for name in ("tls_cert_path", "tls_key_path")]
    for name in sorted(environment):
        if name.startswith(TLS_PREFIX) and environment[name] and name not in pair:
            raise SettingsError(f"{name}: of TLS this server knows {' and '.join(pair)} alone: unset it")
    missing = [name for name in pair if not environment.get(name)]
    if len(missing) == 1:
        raise SettingsError(f"{missing[0]} is not set: TLS needs a certificate and its key")


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """The names of NIM's variables that are set and that this server does not know, sorted."""
    known = {BIND_VARIABLE, *(name for names in ENVIRONMENT.values() for name in names)}
    return sorted(name for name in environment if name.startswith(PREFIX) and name not in known)


def variables_table() -> str:
    """All variables with defaults and meanings, as a table in Markdown."""
    rows = [f"| `{BIND_VARIABLE}` | | Host and port as `host:port`; before `NIM_HTTP_API_PORT`. |"]
    for setting, variables in ENVIRONMENT.items():
        field = ServerSettings.model_fields[setting]
        default = "" if field.is_required() or field.default in (None, ()) else f"{field.default}"
        names = ", ".join(f"`{name}`" for name in variables)
        rows.append(
            f"| {names} | {default} | {' '.join((field.description or '').replace('``', '`').split())} |"
        )
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


def _validated(kind: type[F], values: Mapping[str, Any], sources: Mapping[str, str]) -> F:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0])
        raise SettingsError(f"{sources.get(name, name)}: {first['msg']}") from error


def _from_environment(environment: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings in the environment, as text, and the variable of each."""
    sources = {
        setting: variable
        for setting, variables in ENVIRONMENT.items()
        for variable in reversed(variables)
        if environment.get(variable)
    }
    values: dict[str, Any] = {setting: environment[variable] for setting, variable in sources.items()}
    address = environment.get(BIND_VARIABLE)
    if address:
        host, _, port = address.rpartition(":")
        values |= {"host": host.strip("[]"), "port": port}
        sources |= {"host": BIND_VARIABLE, "port": BIND_VARIABLE}
    return values, sources
