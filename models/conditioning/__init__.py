"""Conditioning of a run: text and image embeddings, image channels, control video and known latents."""
