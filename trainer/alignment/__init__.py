"""Learning from answers that the model itself writes, and from what a judge says of them."""
