"""The pipeline of a run: prepare, denoise step by step, decode."""
