"""Speaks the protocols that apps know, OpenAI's speech API first, in front of tritonservers.

The life of a request: `guards` looks at key, size and origin; `speech` checks the fields; `voices`
finds the voice; `servers` chooses a tritonserver and `streams` runs the client's stream in a
thread; `sound` changes tempo and rate and calls an encoder of `formats`; `answers` sends what
arrives. `app` ties them together, and `python -m gateway` starts it.
"""
