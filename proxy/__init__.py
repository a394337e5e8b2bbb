"""The door in front of tritonserver's HTTP, gRPC and metrics ports: `python -m proxy`.

It lets through what the server can answer, and answers everything else itself, in words.
"""
