"""Speed settings applied to a loaded model: compilation, 8-bit floats and offloading."""
