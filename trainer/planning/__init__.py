"""What a run will need and how fast it will be, from published formulas: no GPU and no torch."""
