"""What tests, benchmarks and the drill run on: real clusters, services and models, and the paced engine."""
