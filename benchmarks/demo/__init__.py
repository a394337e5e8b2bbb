"""`make demo`: a two-speaker script through a real server."""
