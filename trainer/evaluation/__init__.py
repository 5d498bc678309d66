"""How good a model is: held-out bits per byte beside baselines."""
