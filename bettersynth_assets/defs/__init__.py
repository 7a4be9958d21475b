"""Dagster definitions: assets, checks, automation and resources."""
