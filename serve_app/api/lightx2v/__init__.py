"""Surface compatible with LightX2V's own server."""
