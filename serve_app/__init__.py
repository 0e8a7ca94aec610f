"""The Ray Serve application that turns prompts and images into videos."""
