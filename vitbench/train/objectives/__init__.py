"""Objectives, one file each: what training minimises."""
