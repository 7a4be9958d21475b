"""Benchmarks: answers by batched greedy generation, and metrics equal to the reference. Metrics need no torch."""
