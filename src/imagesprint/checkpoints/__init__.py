"""Checkpoints: what they hold, reading anybody's weights without executing anything, writing and keeping them."""
