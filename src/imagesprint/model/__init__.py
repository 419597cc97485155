"""The networks, their weights in and out."""
