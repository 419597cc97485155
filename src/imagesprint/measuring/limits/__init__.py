"""Which part of a training holds it back, by how much, and what would help."""
