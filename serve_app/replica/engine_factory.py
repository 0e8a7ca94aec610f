"""The engine's factory, found by the import path in the settings: the service itself loads no torch."""

import importlib
from typing import Any, Protocol

from models.engine import Engine, EngineSettings


class EngineFactory(Protocol):
    """Loads an engine, or one rank's part of it.

    In a group of ranks it is called in each of them with that rank's ``models.parallel.mesh.Mesh``, and the
    engines that it makes there keep to what ``models.pipeline.wan_engine.WanEngine`` says of groups: all are
    given the same calls in the same order, an error of ``prepare`` is raised on all or on none, and
    ``decode`` yields frames on rank 0 alone while it goes on until the end, or until rank 0 leaves, on the
    others.
    A factory for single devices need not take a mesh.
    """

    def __call__(self, settings: EngineSettings, mesh: Any = ..., /) -> Engine:
        """Raises a ``ModelError`` that says why it cannot be loaded."""


def engine_factory(path: str) -> EngineFactory:
    """The factory at ``package.module:name``."""
    module, _, name = path.partition(":")
    factory: EngineFactory = getattr(importlib.import_module(module), name)
    return factory
