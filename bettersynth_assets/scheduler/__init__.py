"""Processes, device leases and workers. Knows nothing of stages or Dagster."""
