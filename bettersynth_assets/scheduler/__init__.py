"""Processes, device leases and worker pools. Does not depend on stages, the engine or Dagster."""
