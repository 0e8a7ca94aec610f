"""The trace that a task belongs to.

Revision ID: 0014
Revises: 0013
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; existing tasks belong to none."""
    op.add_column("tasks", sa.Column("traceparent", sa.String(64)))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("tasks", "traceparent")
