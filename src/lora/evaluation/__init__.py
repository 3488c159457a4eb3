"""Score and loss of sets, and what the base model says of them."""
