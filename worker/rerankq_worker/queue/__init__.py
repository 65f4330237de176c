"""Celery's parent process: what is done with a message around its task, and what the worker tells of itself."""
