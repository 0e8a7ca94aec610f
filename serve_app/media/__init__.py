"""What comes in as an image and goes out as a video."""
