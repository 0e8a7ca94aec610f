"""The health of each replica, and the drain state of the service.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; existing replicas are READY, since the previous version recorded only ready ones."""
    op.add_column("leadership", sa.Column("draining", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("replicas", sa.Column("health", sa.String(16), nullable=False, server_default="READY"))
    op.add_column("replicas", sa.Column("reason", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    """Drop the columns."""
    op.drop_column("replicas", "reason")
    op.drop_column("replicas", "health")
    op.drop_column("leadership", "draining")
