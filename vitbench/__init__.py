"""vitbench."""
