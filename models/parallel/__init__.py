"""Parallelism: the plan that divides a run among ranks, the ranks' communication and their launcher."""
