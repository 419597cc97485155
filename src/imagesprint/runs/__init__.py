"""The run directory: checkpoints, logs, ranks."""
