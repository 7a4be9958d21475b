"""Batched greedy answers and log-probabilities of candidates, with shared prefixes."""
