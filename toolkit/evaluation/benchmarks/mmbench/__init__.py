"""MMBench: table, metric and upload."""
