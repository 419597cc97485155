"""Which records in which order, and the loader that yields them as batches."""
