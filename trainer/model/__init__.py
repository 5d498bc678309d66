"""The GPT, its attention and its loss."""
