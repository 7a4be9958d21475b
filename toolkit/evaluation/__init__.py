"""Evaluation: batched greedy answers to benchmarks, and metrics equal to the official scripts'."""
