"""LoRAs: named, read, cached and put on the transformer."""
