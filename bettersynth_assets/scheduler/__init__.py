"""Processes, device leases and workers. Knows nothing of stages, the engine or Dagster."""
