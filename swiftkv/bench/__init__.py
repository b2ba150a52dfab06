"""What is timed: throughput, latency, served load."""
