"""Where trainings are sent: the jobs that a person would have written for a scheduler. No SDK is imported."""
