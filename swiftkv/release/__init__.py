"""What leaves the project: students, evidence, crates."""
