"""Measurements on trained models: pure functions of arrays."""
