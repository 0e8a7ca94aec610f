"""The Wan Serve application: HTTP surfaces, the durable task queue and the Ray Serve deployments."""
