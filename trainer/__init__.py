"""pretrain-run's GPT trainer: raw text in, a trained model out, on any number of processes."""

__version__ = "0.1.0"
