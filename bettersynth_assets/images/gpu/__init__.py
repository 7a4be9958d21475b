"""JPEG decoding and resizing on an NVIDIA GPU."""
