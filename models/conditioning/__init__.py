"""What a run is shown beside noise: prompts, pictures, known latents."""
