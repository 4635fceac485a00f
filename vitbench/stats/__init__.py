"""Statistics that settle a claim: arrays and rows in, intervals and verdicts out; no files, no torch."""
