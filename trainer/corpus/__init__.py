"""Raw text to clean documents: read, normalise, deduplicate, split."""
