"""The time to its end that the client of a task was told at the submit.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of existing tasks it is unknown."""
    op.add_column("tasks", sa.Column("told_s", sa.Float))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("tasks", "told_s")
