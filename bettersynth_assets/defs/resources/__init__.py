"""Dagster resources and the executor."""
