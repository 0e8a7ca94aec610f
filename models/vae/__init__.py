"""The VAE: encoding and decoding in chunks of frames, in strips across ranks and in tiles."""
