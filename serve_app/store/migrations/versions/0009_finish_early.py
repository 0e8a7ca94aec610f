"""Whether a run is to finish early, and the number of frames of a video that did.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; no existing run finishes early."""
    op.add_column("tasks", sa.Column("finish_early", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("tasks", sa.Column("frames", sa.Integer))


def downgrade() -> None:
    """Drop the columns."""
    op.drop_column("tasks", "frames")
    op.drop_column("tasks", "finish_early")
