"""Whether a task's prompt is to be enhanced, and what came of it.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; no existing task's prompt is to be enhanced."""
    op.add_column("tasks", sa.Column("enhance_prompt", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("tasks", sa.Column("revised_prompt", sa.Text))


def downgrade() -> None:
    """Drop the columns."""
    op.drop_column("tasks", "revised_prompt")
    op.drop_column("tasks", "enhance_prompt")
