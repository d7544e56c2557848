"""Pure decisions: time and randomness come in as arguments, and nothing else comes in at all."""
