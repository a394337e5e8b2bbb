"""The Fish Audio S2 family: files, weights and prompt, on fish-speech 0.1.0's classes.

The codec is S1's. The language model differs in one place: the fast transformer is fed the slow
state behind its norm. No code of upstream's main is in here, and none may be: its
licence forbids it.
"""
