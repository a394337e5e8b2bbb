"""The codec: waveform to codes, and windows of codes to waveform."""
