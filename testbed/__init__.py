"""The ground under tests, benchmarks and the drill: real clusters, services and models, and the paced
engine.
"""
