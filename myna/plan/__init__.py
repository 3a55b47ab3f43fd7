"""The training configuration, predicted before the run, every value with its reason."""
