"""The callback of each task, the outbox of webhook messages, and the receivers that have refused some.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and the tables; existing tasks have no callback."""
    op.add_column("tasks", sa.Column("callback_url", sa.Text))
    op.add_column("tasks", sa.Column("callback_events", sa.Text))
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("task_uid", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("occurred_at", sa.Float, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_at", sa.Float),
        sa.Column("last_at", sa.Float),
        sa.Column("last_code", sa.Integer),
        sa.Column("last_fault", sa.Text),
    )
    op.create_index("webhooks_due", "webhooks", ["next_at"])
    op.create_index("webhooks_task", "webhooks", ["task_uid"])
    op.create_index("webhooks_endpoint", "webhooks", ["endpoint"])
    op.create_table(
        "webhook_endpoints",
        sa.Column("endpoint", sa.String(64), primary_key=True),
        sa.Column("disabled", sa.Boolean, nullable=False),
        sa.Column("rests_until", sa.Float, nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("webhook_endpoints")
    op.drop_table("webhooks")
    op.drop_column("tasks", "callback_events")
    op.drop_column("tasks", "callback_url")
