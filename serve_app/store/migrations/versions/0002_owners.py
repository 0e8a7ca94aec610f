"""Task ids unique per owner, an index of queues by owner, and tables of shares and of rates by video size.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# 0001 gave the constraint no name: PostgreSQL chose this one, and batch mode gives it to SQLite's.
_NAMES = {"uq": "%(table_name)s_%(column_0_name)s_key"}


def upgrade() -> None:
    """Recreate ``tasks``, since SQLite cannot drop a constraint, and create the new tables."""
    op.drop_index("tasks_queue", "tasks")
    with op.batch_alter_table(
        "tasks", naming_convention=_NAMES, table_kwargs={"sqlite_autoincrement": True}
    ) as tasks:
        tasks.drop_constraint("tasks_id_key", type_="unique")
        tasks.create_unique_constraint("tasks_id", ["id", "owner"])
        tasks.add_column(sa.Column("tokens", sa.Integer, nullable=False, server_default="0"))
    op.create_index("tasks_queue", "tasks", ["status", "model", "owner", "priority", "seq"])
    op.create_index("tasks_owner", "tasks", ["owner", "seq"])
    op.create_table(
        "shares",
        sa.Column("model", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(128), primary_key=True),
        sa.Column("virtual_time", sa.Float, nullable=False),
        sa.Column("clock", sa.Float, nullable=False),
    )
    op.create_table(
        "shape_rates",
        sa.Column("model", sa.String(64), primary_key=True),
        sa.Column("tokens", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("seconds_per_work", sa.Float, nullable=False),
        sa.Column("samples", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    """Restore globally unique ids. Raises ``IntegrityError`` if two owners have tasks with the same id."""
    op.drop_table("shape_rates")
    op.drop_table("shares")
    op.drop_index("tasks_owner", "tasks")
    op.drop_index("tasks_queue", "tasks")
    with op.batch_alter_table("tasks", table_kwargs={"sqlite_autoincrement": True}) as tasks:
        tasks.drop_constraint("tasks_id", type_="unique")
        tasks.create_unique_constraint("tasks_id_key", ["id"])
        tasks.drop_column("tokens")
    op.create_index("tasks_queue", "tasks", ["status", "model", "priority", "seq"])
