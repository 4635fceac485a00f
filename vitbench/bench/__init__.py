"""Measures the speed of vitbench against plain training loops on the current machine."""
