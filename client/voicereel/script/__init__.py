"""Scripts of many speakers, from a file to one waveform and its captions.

1. `files` reads JSON, YAML or plain text; `segment` checks it: a tuple of `Segment`.
2. `requests` joins each segment with its speaker's voice; what is wrong is found here, before any
   request is sent.
3. `sentences` cuts a long text into parts; each part is one request to the server.
4. `workers` runs requests concurrently and gives their sound in the order of the script.
5. `reel` adds silence and a caption after each segment, and joins the pieces.

`synthesis` ties steps 2 to 5 together; `speak` has the public functions.
"""
