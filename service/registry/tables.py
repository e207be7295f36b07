"""The tables of the metadata, as SQLAlchemy sees them; migrations/ makes them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

METADATA = sa.MetaData()


class UtcTime(sa.types.TypeDecorator[datetime]):
    """An aware UTC time in every database; SQLite alone would drop the zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, _dialect: object) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


def _time(name: str, nullable: bool = False) -> sa.Column[datetime]:
    return sa.Column(name, UtcTime(), nullable=nullable)


def _json(name: str, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.JSON(none_as_null=True), nullable=nullable)


MODEL_VERSIONS = sa.Table(
    "model_versions",
    METADATA,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("format", sa.String(16), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("opset", sa.Integer, nullable=False),
    _json("inputs"),
    _json("outputs"),
    _json("preprocessing", nullable=True),
    sa.Column("labels_key", sa.String(255)),
    _time("created_at"),
    sa.UniqueConstraint("name", "sha256", name="uq_model_versions_content"),
)

# A version number is never given twice, even after its model was deleted: certificates and logs name it.
MODEL_COUNTERS = sa.Table(
    "model_counters",
    METADATA,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("last_version", sa.Integer, nullable=False),
)

DATASETS = sa.Table(
    "datasets",
    METADATA,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    _json("arrays"),
    sa.Column("labels", sa.Boolean, nullable=False),
    sa.Column("blob_key", sa.String(255), nullable=False),
    _json("warnings"),
    _time("created_at"),
)

ENGINES = sa.Table(
    "engines",
    METADATA,
    sa.Column("model", sa.String(63), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("variant", sa.String(63), primary_key=True),
    sa.Column("runtime", sa.String(32), nullable=False),
    sa.Column("precision", sa.String(16), nullable=False),
    sa.Column("recipe_digest", sa.String(64), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("blob_key", sa.String(255), nullable=False),
    sa.Column("batch_max", sa.Integer, nullable=False),
    _json("certificate", nullable=True),
    _json("fingerprint", nullable=True),
    sa.Column("job", sa.String(64)),
    _time("created_at"),
    sa.ForeignKeyConstraint(
        ["model", "version"], ["model_versions.name", "model_versions.version"], ondelete="CASCADE"
    ),
)

DEPLOYMENTS = sa.Table(
    "deployments",
    METADATA,
    sa.Column("model", sa.String(63), primary_key=True),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("stable", sa.String(63), nullable=False),
    sa.Column("canary", sa.String(63)),
    sa.Column("canary_weight", sa.Integer, nullable=False),
    sa.Column("shadow", sa.String(63)),
    _json("previous", nullable=True),
    sa.Column("loaded", sa.Boolean, nullable=False, server_default=sa.true()),
    _json("batching", nullable=True),
    _time("updated_at"),
)

JOBS = sa.Table(
    "jobs",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("model", sa.String(63), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("stage", sa.String(16)),
    sa.Column("progress", sa.Float, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    _json("stages"),
    _json("request"),
    # Set while an equal request must find this job; cleared when it failed or was cancelled, so it can be asked again.
    sa.Column("active_digest", sa.String(64), unique=True),
    _json("error", nullable=True),
    _json("result", nullable=True),
    # Written with the deployment that the job made: a job that is taken up again must not deploy a second time.
    _json("deployed", nullable=True),
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    _time("created_at"),
    _time("started_at", nullable=True),
    _time("finished_at", nullable=True),
    sa.Index("ix_jobs_created", "created_at", "id"),
    sa.Index("ix_jobs_state", "state"),
)

IDEMPOTENCY_KEYS = sa.Table(
    "idempotency_keys",
    METADATA,
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("request_digest", sa.String(64), nullable=False),
    sa.Column("job", sa.String(64), nullable=False),
    _time("created_at"),
)

WORKERS = sa.Table(
    "workers",
    METADATA,
    sa.Column("id", sa.String(255), primary_key=True),
    sa.Column("beat", sa.BigInteger, nullable=False),
    sa.Column("lease_seconds", sa.Float, nullable=False),
)
