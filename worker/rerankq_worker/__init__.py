"""The worker: the side that answers."""
