"""The kit's steps before training: sample budget, format conversion, batch check. Does not import torch."""
