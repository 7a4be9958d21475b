"""MMBench: its table, its metric, its upload."""
