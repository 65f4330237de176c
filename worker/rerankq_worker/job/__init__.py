"""Celery's child process: one job, from what was asked to its ranking."""
