"""What stand-ins for Triton's native backends do; their shells are in backends/."""
