"""Engines: how parameters, gradients and optimizer state are laid out over the processes."""
