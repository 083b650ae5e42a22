"""The training state, optimiser, step, checkpoints and loop."""
