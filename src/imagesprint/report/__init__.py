"""The report of a run: one page that needs nothing else, and the model card beside it."""
