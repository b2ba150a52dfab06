"""Whether a model is right and how much of the base it keeps: gates, accuracy, divergence."""
