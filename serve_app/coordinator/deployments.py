"""The models' deployments as Ray Serve runs them: how many replicas each has, and which of them it stops."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from ray.exceptions import RayError
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException

from serve_app.coordinator.serve_details import deployments_of
from serve_app.tasks.replica import Scale

_logger = logging.getLogger("ray.serve")


def ask_controller() -> object:
    """Ask Serve's controller for what the dashboard's ``/api/serve/applications/`` answers.

    ``serve.status`` asks for the same, takes several times as long to check its types, and then only counts
    the replicas. Blocks. Raises ``RayServeException`` where there is no controller.
    """
    client = _get_global_client()
    assert client is not None  # it raises where there is no controller
    details: object = client.get_serve_details()
    return details


class Deployments:
    """The deployment of each model. What was known of them last holds while no answer can be had.

    ``names``: the deployment's name by model. ``ask`` answers Serve's details and may block.
    """

    def __init__(
        self, application: str, names: Mapping[str, str], ask: Callable[[], object] = ask_controller
    ) -> None:
        self._application = application
        self._names = names
        self._ask = ask
        self._stopping: Mapping[str, frozenset[str]] = {}
        self._is_understood = True

    async def look(self) -> Sequence[Scale]:
        """The scale of each model that the controller knows. Empty, and nothing changes, without an answer.

        An answer that cannot be read is logged once: the dispatch of tasks goes on without it.
        """
        try:
            deployments = deployments_of(await asyncio.to_thread(self._ask), self._application)
        except (RayError, RayServeException, TimeoutError) as error:
            _logger.debug("Serve's controller does not answer: %r", error)
            return []
        except Exception:  # another version of Ray: whatever it is, tasks are dispatched all the same
            if self._is_understood:
                _logger.exception("Serve's description of its deployments cannot be read")
            self._is_understood = False
            return []
        self._is_understood = True
        known = {model: deployments[name] for model, name in self._names.items() if name in deployments}
        if deployments:
            self._stopping = {model: deployment.stopping for model, deployment in known.items()}
        return [deployment.scale(model) for model, deployment in known.items()]

    def stopping(self, model: str) -> frozenset[str]:
        """The ids of the model's replicas that Serve stops: they may end what they have."""
        return self._stopping.get(model, frozenset())
