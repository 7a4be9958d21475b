"""Training data: LLaVA JSON rows, their order, batches, and cached features of the frozen towers."""
