"""Spans of tasks, told to a collector of OpenTelemetry where the settings name one."""
