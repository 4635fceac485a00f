"""Patch embeddings, one file each: how images become tokens."""
