"""The workers that live, each with a count that grows while it does."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "workers",
        sa.Column("id", sa.String(255), primary_key=True),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sa.Column("lease_seconds", sa.Float, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("workers")
