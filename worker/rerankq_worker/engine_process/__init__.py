"""One device's process: who waits for which rows, the next batch, a watchdog over it."""
