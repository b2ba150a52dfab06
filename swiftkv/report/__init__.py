"""What readers see: figures, tables, verdicts, notebooks."""
