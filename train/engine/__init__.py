"""The training engine: clips in their order, the frozen prefix, steps, checkpoints."""
