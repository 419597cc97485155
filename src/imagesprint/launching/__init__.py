"""Where trainings are sent: what a person would have written for SLURM, SageMaker and Kubernetes. No SDK is imported."""
