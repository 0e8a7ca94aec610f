"""Places before the others of a queue, deadlines of waiting tasks, and pauses.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, the table and the indexes; existing tasks go by age and have no deadline."""
    op.add_column("tasks", sa.Column("place", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("tasks", sa.Column("expires_at", sa.Float))
    op.drop_index("tasks_queue", "tasks")
    op.create_index("tasks_queue", "tasks", ["status", "model", "owner", "priority", "place", "seq"])
    op.create_index("tasks_expires", "tasks", ["expires_at"])
    op.create_table(
        "pauses",
        sa.Column("model", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(128), primary_key=True),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("pauses")
    op.drop_index("tasks_expires", "tasks")
    op.drop_index("tasks_queue", "tasks")
    op.create_index("tasks_queue", "tasks", ["status", "model", "owner", "priority", "seq"])
    op.drop_column("tasks", "expires_at")
    op.drop_column("tasks", "place")
