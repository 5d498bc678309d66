"""Optimizers: the update of weights from a step's gradients, the same whatever the engine."""
