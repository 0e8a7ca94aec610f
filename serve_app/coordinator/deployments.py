"""The state of the models' deployments in Ray Serve: target numbers and stopping replicas."""

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
    """Request the details that the dashboard's ``/api/serve/applications/`` shows from Serve's controller.

    ``serve.status`` makes the same request, takes several times as long to validate the types, and returns
    only the numbers of replicas. Blocks. Raises ``RayServeException`` when there is no controller.
    """
    client = _get_global_client()
    assert client is not None  # _get_global_client raises when there is no controller
    details: object = client.get_serve_details()
    return details


class Deployments:
    """The deployment of each model; the last known state is used while the controller does not answer.

    ``names``: the deployment's name by model. ``ask``: returns Serve's details; may block.
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
        """Query the controller; return the scale of each deployed model, or nothing without an answer.

        An answer that cannot be parsed is logged once; dispatch continues without it.
        """
        try:
            deployments = deployments_of(await asyncio.to_thread(self._ask), self._application)
        except (RayError, RayServeException, TimeoutError) as error:
            _logger.debug("Serve's controller does not answer: %r", error)
            return []
        except Exception:  # an unknown format of another Ray version must not stop dispatch
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
        """Return the ids of the model's replicas that Serve is stopping; their current runs may end."""
        return self._stopping.get(model, frozenset())
