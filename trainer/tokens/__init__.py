"""Clean text to rows of tokens: tokenizer, shards, packing, order."""
