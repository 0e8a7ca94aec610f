"""Shared parts of all surfaces: API keys, request bodies, error responses, the OpenAPI document."""
