"""A model's directory: found, checked and read, without torch."""
