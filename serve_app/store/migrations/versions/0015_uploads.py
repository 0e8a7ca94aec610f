"""Where each task's video is sent, and how far that is.

Revision ID: 0015
Revises: 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and the table; existing tasks have no upload."""
    op.add_column("tasks", sa.Column("upload_url", sa.Text))
    op.create_table(
        "uploads",
        sa.Column("task_uid", sa.String(64), primary_key=True),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_at", sa.Float),
        sa.Column("last_at", sa.Float),
        sa.Column("last_code", sa.Integer),
        sa.Column("last_fault", sa.Text),
    )
    op.create_index("uploads_due", "uploads", ["next_at"])
    op.create_index("uploads_endpoint", "uploads", ["endpoint"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("uploads")
    op.drop_column("tasks", "upload_url")
