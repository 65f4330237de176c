"""One host: the devices it serves, the processes that serve them, and what it tells Prometheus."""
