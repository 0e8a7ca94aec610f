"""The state of the queue, and forecasts of when queued tasks start."""
