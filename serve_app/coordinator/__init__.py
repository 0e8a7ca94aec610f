"""The coordinator: scheduling, leases, retries and retention of tasks."""
