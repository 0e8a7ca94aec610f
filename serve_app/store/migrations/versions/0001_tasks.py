"""Tasks, leadership, rates and replicas.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the first tables; the only row of ``leadership`` starts at epoch 0."""
    op.create_table(
        "tasks",
        sa.Column(
            "seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
        sa.Column("uid", sa.String(64), nullable=False, unique=True),
        sa.Column("id", sa.String(128), nullable=False, unique=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("work", sa.Float, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("notes", sa.JSON, nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("save_path", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("attempts_left", sa.Integer, nullable=False),
        sa.Column("runner", sa.String(255)),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("progress", sa.Float, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float),
        sa.Column("lease_expires_at", sa.Float),
        sa.Column("artifact", sa.Text),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_message", sa.Text),
        sa.Column("timings", sa.JSON, nullable=False),
        sa.UniqueConstraint("owner", "idempotency_key", name="tasks_idempotency"),
        sqlite_autoincrement=True,
    )
    op.create_index("tasks_queue", "tasks", ["status", "model", "priority", "seq"])
    op.create_index("tasks_save_path", "tasks", ["save_path", "seq"])
    op.create_index("tasks_finished", "tasks", ["finished_at"])
    leadership = op.create_table(
        "leadership",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("epoch", sa.Integer, nullable=False),
    )
    op.bulk_insert(leadership, [{"id": 1, "epoch": 0}])
    op.create_table(
        "rates",
        sa.Column("model", sa.String(64), primary_key=True),
        sa.Column("seconds_per_work", sa.Float, nullable=False),
        sa.Column("samples", sa.Integer, nullable=False),
    )
    op.create_table(
        "replicas",
        sa.Column("replica_id", sa.String(255), primary_key=True),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("device", sa.String(128), nullable=False),
        sa.Column("ranks", sa.Integer, nullable=False),
        sa.Column("seen_at", sa.Float, nullable=False),
    )


def downgrade() -> None:
    """Drop all tables."""
    for table in ("replicas", "rates", "leadership", "tasks"):
        op.drop_table(table)
