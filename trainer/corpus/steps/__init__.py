"""What is done to one document on its way to the clean corpus: pure functions of values."""
