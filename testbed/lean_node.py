"""Ray nodes without the processes of which no test sees anything.

These are the dashboard, which is a dozen, the autoscaler, which has nothing to scale, and the monitor that
prints the workers' logs at the driver. Where nobody reads metrics they are a node's agents, too.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

MODULE = "ray._private.node"
LEFT_OUT = ("start_api_server", "start_monitor", "start_log_monitor")
AGENTS = ("dashboard_agent", "runtime_env_agent")
COMMAND = "_build_python_executable_command_memory_profileable"
STAND_IN = Path(__file__).with_name("agent_stand_in.py")


def leave_out(node: Any) -> None:
    """Have nodes of this class, Ray's, start none of these processes."""
    for name in LEFT_OUT:
        assert hasattr(node, name)
        setattr(node, name, lambda _node, **_options: None)


def leave_out_agents(node: Any) -> None:
    """Have nodes of this class, Ray's, start the stand-in of their agents."""
    own = node.start_raylet

    def start_raylet(*arguments: Any, **options: Any) -> None:
        with stand_ins():
            own(*arguments, **options)

    node.start_raylet = start_raylet


@contextmanager
def stand_ins() -> Iterator[None]:
    """Have the commands of the agents, which a raylet is told as it starts, run the stand-in."""
    services = importlib.import_module("ray._private.services")
    own = getattr(services, COMMAND)

    def command(component: str, *arguments: Any, **options: Any) -> Any:
        if component in AGENTS:
            return [sys.executable, "-I", "-S", str(STAND_IN)]
        return own(component, *arguments, **options)

    setattr(services, COMMAND, command)
    try:
        yield
    finally:
        setattr(services, COMMAND, own)


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
        leave_out_agents(module.Node)
