"""OpenAudio S1 and S1-mini, as fish-speech 0.1.0 reads them."""
