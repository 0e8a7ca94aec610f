"""The engine's factory, imported by its path in the settings, so that the service itself imports no torch."""

import importlib
from typing import Any, Protocol

from models.engine import Engine, EngineSettings


class EngineFactory(Protocol):
    """Callable that loads an engine, or one rank's part of it.

    In a group, the factory is called on every rank with that rank's ``models.parallel.mesh.Mesh``. The
    engines obey the group contract of ``models.pipeline.wan_engine.WanEngine``: all ranks receive the same
    calls in the same order, an error of ``prepare`` is raised on all ranks or on none, and ``decode`` yields
    frames on rank 0 alone, while on the other ranks it runs until rank 0 ends or leaves it.

    A factory for single devices may omit the mesh.
    """

    def __call__(self, settings: EngineSettings, mesh: Any = ..., /) -> Engine:
        """Load the engine. Raises ``ModelError`` with the reason if that fails."""


def engine_factory(path: str) -> EngineFactory:
    """Import the factory at ``package.module:name``. Raises ``ImportError`` or ``AttributeError``."""
    module, _, name = path.partition(":")
    factory: EngineFactory = getattr(importlib.import_module(module), name)
    return factory
