"""What is predicted before anything runs: speed, memory, GPUs."""
