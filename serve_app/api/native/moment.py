"""Moments as the documents of the native surface write them: RFC 3339 in UTC."""

from datetime import UTC, datetime


def moment(seconds: float) -> str:
    """Return a time in seconds since 1970 as text."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment_if_any(seconds: float | None) -> str | None:
    """Return a time as text, None without one."""
    return None if seconds is None else moment(seconds)
