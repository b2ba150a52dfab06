"""vLLM engines and servers for the other rooms, their settings, and arms with random weights."""
