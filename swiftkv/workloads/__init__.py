"""What is asked of the models: task items, training streams and real request lengths."""
