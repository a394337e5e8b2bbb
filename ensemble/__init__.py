"""What the stages of Fish-Speech agree on, and the code that serves them."""
