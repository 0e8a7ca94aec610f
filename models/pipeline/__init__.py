"""The run: prepare, denoise step by step, decode."""
