"""Durable cross-encoder reranking: the side that asks."""
