"""Checkpoints: whole or absent, verified before use, free of the world size and of pickle."""
