"""A trained model in use: predicting images, exporting it, running it elsewhere."""
