"""Using a trained model: loading it, writing text with it."""
