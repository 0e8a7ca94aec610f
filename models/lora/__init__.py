"""LoRAs: read, cached and put on the transformer."""
