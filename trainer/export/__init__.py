"""A trained model as files that other tools read: a Hugging Face folder, or GGUF."""
