"""`track`: what a run has logged, sent to a tracker from outside of the training. No torch."""

TRACKERS = ("mlflow", "wandb", "trackio")  # what `--to` names, each with the extra of its name
