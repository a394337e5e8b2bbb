"""Checks that the contract, every config.pbtxt and every exported artefact agree."""
