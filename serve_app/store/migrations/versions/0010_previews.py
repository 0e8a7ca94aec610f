"""Until when previews of a run are wanted.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; nobody looks yet."""
    op.add_column("tasks", sa.Column("previews_until", sa.Float))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("tasks", "previews_until")
