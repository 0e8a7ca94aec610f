"""Ray nodes without the processes of which no test sees anything.

These are the dashboard, which is a dozen, the autoscaler, which has nothing to scale, and the monitor that
prints the workers' logs at the driver.
"""

import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODULE = "ray._private.node"
LEFT_OUT = ("start_api_server", "start_monitor", "start_log_monitor")


def leave_out(node: Any) -> None:
    """Have nodes of this class, Ray's, start none of these processes."""
    for name in LEFT_OUT:
        assert hasattr(node, name)
        setattr(node, name, lambda _node, **_options: None)


def leave_out_once_imported() -> None:
    """Do so when this process imports Ray: not before, as Ray reads its environment then."""
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        spec.loader = _Lean(spec.loader)
        return spec


class _Lean(Loader):
    """The module's loader, and then the change."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        leave_out(module.Node)
