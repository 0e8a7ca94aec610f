"""The target number of replicas of each model.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table; the coordinator fills it."""
    op.create_table(
        "scales",
        sa.Column("model", sa.String(64), primary_key=True),
        sa.Column("wanted", sa.Integer, nullable=False),
        sa.Column("failing", sa.Boolean, nullable=False),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("scales")
