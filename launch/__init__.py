"""Starts a tritonserver on this machine, and finds what keeps it from serving."""
