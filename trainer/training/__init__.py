"""Training: the step loop, and what each stage adds to it."""
