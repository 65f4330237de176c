"""Adapters: rerankq as a part of somebody's framework, one module each, with an extra of its name."""
