"""State, optimiser, step, checkpoints and the loop."""
