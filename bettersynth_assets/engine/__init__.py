"""Content-keyed execution of stages: keys, store, gate, pipeline. Knows no set by name."""
