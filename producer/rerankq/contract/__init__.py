"""The doorway: everything that both sides must agree on."""
