"""The settings of tracing: the collector that spans of tasks are sent to."""

from importlib.util import find_spec

from pydantic import Field, model_validator

from serve_app.config.section import Seconds, Section

_EXPORTER = "opentelemetry.exporter.otlp.proto.http"


class TracingSettings(Section):
    """The collector of OpenTelemetry that is told what each task went through, by OTLP over HTTP."""

    endpoint: str = Field(
        pattern=r"^https?://[^\s?#@]+$",
        description="the collector, as `http://127.0.0.1:4318`: /v1/traces below it is sent to",
    )
    sample: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="share of the tasks that are traced, where the client has not decided",
    )
    service_name: str = Field(
        default="wan-serve", min_length=1, description="the service's name in its traces"
    )
    period_s: Seconds = Field(default=5.0, description="how often each process sends what it has")

    @model_validator(mode="after")
    def _has_exporter(self) -> "TracingSettings":
        if not _is_installed():
            raise ValueError("endpoint: needs the extra otel (pip install 'wan-serve[otel]')")
        return self


def _is_installed() -> bool:
    try:
        return find_spec(_EXPORTER) is not None
    except ModuleNotFoundError:  # of a package above it
        return False
