"""Sinks for events: JSON lines, terminal, wandb, report."""
