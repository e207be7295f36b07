"""Environment to one frozen value; the only reader of the environment. Only the roots (serve, work, cli) import it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import MutableMapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.domain.limits import MIB, InferLimits, StageLimits, UploadLimits
from service.errors import InvalidInput

PositiveInt = Annotated[int, Field(gt=0)]
Port = Annotated[int, Field(ge=0, le=65535)]
PositiveFloat = Annotated[float, Field(gt=0)]

# Each holds every engine and a pool of database connections.
MAX_PROCESSES = 64
# Between asking for a copy and opening it.
_OPENING_SECONDS = 600.0
_PREFIX = "OCTAVO_"
# Read by the client commands.
_CLIENT_VARIABLES = ("OCTAVO_URL",)
# Kubernetes and Docker tell of a service named octavo so, unasked.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)(_|$)|_PORT_\d+_(TCP|UDP|SCTP)(_|$)")
_log = logging.getLogger(__name__)


class Settings(BaseSettings):
    """Every setting, `OCTAVO_` and the field's name in capitals; docs/settings.md says more of each."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="forbid")

    # Nothing is every interface to a socket, and that is to be asked for.
    host: str = Field("127.0.0.1", pattern=r"\S", description="Address that the server listens on.")
    port: Port = Field(8000, description="Port that the server listens on.")
    grpc_port: Annotated[Port | None, BeforeValidator(lambda value: None if value == "" else value)] = Field(
        8001, description="Port that the server listens on for gRPC; empty for no gRPC."
    )
    data_dir: Path = Field(Path("data"), description="Folder of all state: database, artifacts, caches.")
    database_url: str | None = Field(
        None,
        validate_default=True,
        description="Metadata and job database; SQLite in the data folder where none is set.",
    )
    store_url: str | None = Field(
        None,
        description="Object store (s3://, gs://, az://, file://); a folder of the data folder by default.",
    )
    processes: Annotated[int, Field(gt=0, le=MAX_PROCESSES)] = Field(
        1, description="Serving processes that share the ports, each with every engine."
    )
    engine_threads: Annotated[int, Field(gt=0, le=1024)] = Field(
        # Half of the host, shared out: processes that each took it would wait for one another.
        default_factory=lambda fields: max(1, (os.cpu_count() or 2) // 2 // fields["processes"]),
        description="Intra-op threads of a CPU engine.",
    )
    engine_instances: Annotated[int, Field(gt=0, le=256)] = Field(
        1, description="Batches that one engine runs beside each other, each on its own engine_threads."
    )
    cache_bytes: PositiveInt = Field(
        10 * 1024 * MIB, description="Local copies of what a remote store holds, in bytes; the least used go first."
    )
    max_upload_bytes: PositiveInt = Field(2048 * MIB, description="Largest model or dataset upload in bytes.")
    max_infer_bytes: PositiveInt = Field(64 * MIB, description="Largest inference request body in bytes.")
    max_queue_rows: PositiveInt = Field(1024, description="Rows that may wait before one replica.")
    max_batch_rows: PositiveInt = Field(32, description="Rows in one batch at most, if the engine allows as many.")
    batch_delay_seconds: Annotated[float, Field(ge=0, le=10)] = Field(
        0.0, description="Longest wait for a batch to fill while the engine is idle."
    )
    max_queued_jobs: PositiveInt = Field(1000, description="Jobs that may be waiting or running at once.")
    job_concurrency: PositiveInt = Field(1, description="Jobs that one worker runs at once.")
    stage_time_seconds: PositiveFloat = Field(3600.0, description="Wall time that one stage of a job may take.")
    stage_memory_bytes: Annotated[int, Field(ge=128 * MIB, le=2**63 - 1)] = Field(
        16384 * MIB, description="Private memory of one stage's process."
    )
    worker_lease_seconds: Annotated[float, Field(ge=3, le=3600)] = Field(
        60.0, description="How long a worker may be silent before others take its jobs over."
    )
    hang_seconds: Annotated[float, Field(ge=1, le=3600)] = Field(
        60.0, description="How long a process under a supervisor may give no sign of life before it is restarted."
    )
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Least severe log level.")
    drain_seconds: Annotated[float, Field(gt=0, le=86400)] = Field(
        30.0, description="Longest wait for requests in flight at shutdown."
    )

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, url: str | None, info: ValidationInfo) -> str | None:
        # SQLite's own is named by the folder's path, which a question mark would end.
        folder = info.data.get("data_dir")
        if not url and folder is not None and "?" in str(folder.absolute()):
            raise ValueError(
                f"the folder {str(folder)!r} cannot hold the database, for its path has a '?'; choose another"
            )
        return url

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'octavo.db'}"

    @property
    def resolved_store_url(self) -> str:
        return self.store_url or (self.data_dir.absolute() / "store").as_uri()

    @property
    def cache_idle_seconds(self) -> float:
        """How long a copy is kept for whoever asked for it: a stage opens its files as it comes to them."""
        return self.stage_time_seconds + _OPENING_SECONDS

    @property
    def upload_limits(self) -> UploadLimits:
        return UploadLimits(max_upload_bytes=self.max_upload_bytes)

    @property
    def infer_limits(self) -> InferLimits:
        return InferLimits(
            max_body_bytes=self.max_infer_bytes,
            max_queue_rows=self.max_queue_rows,
            max_batch_rows=self.max_batch_rows,
            instances=self.engine_instances,
            max_delay_seconds=self.batch_delay_seconds,
        )

    @property
    def stage_limits(self) -> StageLimits:
        return StageLimits(self.stage_time_seconds, self.stage_memory_bytes)


def read_settings(**overrides: object) -> Settings:
    """The settings from the environment, `overrides` first. Raises InvalidInput naming the variable and its value."""
    try:
        return Settings(**{k: v for k, v in overrides.items() if v is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        variable = _PREFIX + str(first["loc"][0]).upper()
        raise InvalidInput(
            f"{variable} is {first.get('input')!r}: {first['msg']}; set it to an allowed value (see docs/settings.md)"
        ) from error


def read_server_settings(**overrides: object) -> Settings:
    """As `read_settings`, for a process that listens. Raises InvalidInput also for one port for HTTP and gRPC."""
    settings = read_settings(**overrides)
    if settings.port and settings.port == settings.grpc_port:
        raise InvalidInput(
            f"port {settings.port} is that of HTTP and of gRPC: they need one each; give another with --port "
            "(OCTAVO_PORT) or --grpc-port (OCTAVO_GRPC_PORT; empty for no gRPC)"
        )
    return settings


def drop_unknown_variables(environment: MutableMapping[str, str]) -> None:
    """Logs one warning of all variables that look like settings and are none, and removes them.

    Removed, the processes that are started from here do not tell of them again.
    """
    known = [_PREFIX + name.upper() for name in Settings.model_fields] + list(_CLIENT_VARIABLES)
    # Settings are read in any case of letters.
    unknown = sorted(
        name
        for name in environment
        if name.upper().startswith(_PREFIX) and name.upper() not in known and not _SERVICE_LINK.search(name)
    )
    told = []
    for name in unknown:
        del environment[name]
        close = get_close_matches(name.upper(), known, n=1)
        told.append(f"{name} (did you mean {close[0]}?)" if close else name)
    if told:
        _log.warning(
            f"no such settings: {', '.join(told)}; correct or unset them, docs/settings.md lists those that there are"
        )
