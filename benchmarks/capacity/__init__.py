"""How many replicas do what: a simulation with measured service times, and its validation."""
