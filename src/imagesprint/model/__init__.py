"""The networks: what they are made of, and the table of those that a recipe may name."""
