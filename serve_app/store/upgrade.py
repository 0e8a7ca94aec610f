"""The upgrade of the schema to the newest version, by Alembic."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection


def upgrade(connection: Connection) -> None:
    """Run the migrations that the database has not had, in the transaction of ``connection``."""
    command.upgrade(migrations(connection), "head")


def migrations(connection: Connection) -> Config:
    """Return the configuration for Alembic's commands to run in the transaction of ``connection``."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config
