"""Memory of a training step, predicted without an accelerator."""
