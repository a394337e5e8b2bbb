"""Code that runs inside tritonserver: it joins Triton's requests and the engine."""
