"""Exact evaluation of checkpoints."""
