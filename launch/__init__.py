"""Starts a tritonserver on this machine, and says what is wrong with it."""
