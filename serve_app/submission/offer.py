"""The models and limits that a service offers its clients."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from serve_app.config.model_settings import ModelSettings
from serve_app.config.settings import AppSettings, LimitSettings
from serve_app.submission.video_order import OrderFault, VideoOrder
from serve_app.tasks.caller import Caller


@dataclass(frozen=True, slots=True)
class Offer:
    """The models that a service makes videos with, and the bounds of what it takes in."""

    models: Sequence[ModelSettings]
    limits: LimitSettings
    retention_s: float
    """Seconds that an ended task and its files are kept."""
    image_urls: bool
    """Whether pictures may be named by URL."""
    image_paths: bool
    """Whether pictures may be named by a path below an input folder."""
    max_attempts: int
    """Runs that a task gets."""
    enhances_prompts: bool
    """Whether there is a prompt enhancer."""

    @classmethod
    def of(cls, settings: AppSettings) -> "Offer":
        """Return what these settings offer."""
        return cls(
            models=settings.models,
            limits=settings.limits,
            retention_s=settings.tasks.retention_s,
            image_urls=settings.allow_image_urls,
            image_paths=bool(settings.input_roots),
            max_attempts=settings.tasks.max_attempts,
            enhances_prompts=settings.prompt_enhancer is not None,
        )

    @property
    def max_file_bytes(self) -> int:
        """Bytes of the largest file that a request may hold."""
        return max(self.limits.max_image_bytes, self.limits.max_video_bytes)

    @property
    def scales_from_zero(self) -> bool:
        """Return whether some model's first replica is started by a task."""
        rules = [model.autoscaling for model in self.models]
        return any(rule is not None and rule.min_replicas == 0 for rule in rules)

    def by_successor(self, order: VideoOrder) -> VideoOrder:
        """Return the order with the successor of a removed model in its place, and a note that says so."""
        for model in self.models:
            if order.model and order.model in model.replaces:
                notes = (*order.notes, model.succession_note(order.model))
                return replace(order, model=model.name, notes=notes)
        return order

    def check_priority(self, caller: Caller, priority: int) -> None:
        """Raise ``OrderFault`` for a priority that the caller may not ask for."""
        limit = self.limits.max_priority
        highest = limit if caller.max_priority is None else min(limit, caller.max_priority)
        if not -limit <= priority <= highest:
            raise OrderFault("priority", f"must be a whole number from {-limit} to {highest}.")
