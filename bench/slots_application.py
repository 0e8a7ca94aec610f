"""The service with slots in place of model replicas, as ``serve_app.app`` builds the real one.

Apart from the slots, whose processes need nothing of it.
"""

from pathlib import Path

from ray import serve
from ray.serve import Application

from bench.slots import Slots
from serve_app.api.ingress import ingress
from serve_app.app import coordinator
from serve_app.config.settings import parse_settings
from serve_app.coordinator.scaling import deployment_of


def build(args: dict[str, object]) -> Application:
    """Build the service with ``replicas`` processes of ``options.slots`` slots each for its one model."""
    settings = parse_settings(args, Path.cwd())
    (model,) = settings.models
    processes, slots = model.replicas, int(model.options["slots"])
    assert isinstance(processes, int)
    deployment = serve.deployment(
        name=deployment_of(model.name),
        num_replicas=processes,
        max_ongoing_requests=slots,
        ray_actor_options={"num_cpus": 0.01},
    )(Slots)
    models = {model.name: deployment.bind(settings, model)}
    return ingress(settings, coordinator(settings, models, {model.name: processes * slots}))
