"""The phase of a task's current attempt.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of existing rows the phase is not known."""
    op.add_column("tasks", sa.Column("phase", sa.String(32), nullable=False, server_default=""))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("tasks", "phase")
