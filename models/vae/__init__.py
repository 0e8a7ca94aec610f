"""The VAE: encode and decode chunk by chunk, in strips and in tiles."""
