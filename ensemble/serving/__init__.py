"""Code that runs inside tritonserver: the way between its requests and the engine."""
