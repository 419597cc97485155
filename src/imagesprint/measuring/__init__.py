"""What a run did: plots and the report."""
