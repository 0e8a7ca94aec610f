"""The services on the database, the service of each run, and which programs can use the schema.

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables and add the column; programs of 0012 go on with the schema, later ones say so here.

    ``leadership`` stays for those of 0012; nothing reads it from here on.
    """
    op.create_table(
        "services",
        sa.Column(
            "generation",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("name", sa.String(255), nullable=False, unique=True),
        sa.Column("epoch", sa.BigInteger, nullable=False, unique=True),
        sa.Column("seen_at", sa.Float, nullable=False),
        sa.Column("ready", sa.Boolean, nullable=False),
        sa.Column("draining", sa.Boolean, nullable=False),
        sa.Column("leads", sa.Boolean, nullable=False),
        sqlite_autoincrement=True,
    )
    op.add_column("tasks", sa.Column("generation", sa.BigInteger))
    compatibility = op.create_table(
        "compatibility",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("oldest_program", sa.String(16), nullable=False),
    )
    op.bulk_insert(compatibility, [{"id": 1, "oldest_program": "0012"}])


def downgrade() -> None:
    """Drop the tables and the column."""
    op.drop_table("compatibility")
    op.drop_column("tasks", "generation")
    op.drop_table("services")
