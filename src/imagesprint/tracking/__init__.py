"""`track`: what a run has logged, sent to a tracker from outside of the training. No torch."""
