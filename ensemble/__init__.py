"""How the three Fish-Speech stages are joined and served: contract, prompt, checks, launch."""
