"""The native surface's request to move a waiting task in the queue."""

from pydantic import Field

from serve_app.api.http.request_model import RequestModel
from serve_app.api.http.video_fields import Priority


class ReorderRequest(RequestModel):
    """Another priority for a waiting task."""

    priority: Priority = Field(description="Higher goes first, within the service's own limit.", examples=[5])
