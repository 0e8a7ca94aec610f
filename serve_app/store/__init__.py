"""The task store; contains all SQL of the service."""
