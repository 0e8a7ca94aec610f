"""How each replica is, and whether the service is shutting down.

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
    """Replicas of the version before reported only once they were ready."""
    op.add_column("leadership", sa.Column("draining", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("replicas", sa.Column("health", sa.String(16), nullable=False, server_default="READY"))
    op.add_column("replicas", sa.Column("reason", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    """Drop the columns."""
    op.drop_column("replicas", "reason")
    op.drop_column("replicas", "health")
    op.drop_column("leadership", "draining")
