"""The surface that speaks as LightX2V's own server does."""
