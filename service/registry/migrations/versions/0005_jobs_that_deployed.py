"""What a job has deployed, so that one that is taken up again does not deploy anew."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("deployed", sa.JSON(none_as_null=True)))


def downgrade() -> None:
    op.drop_column("jobs", "deployed")
