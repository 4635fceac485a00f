"""What is on disk: records, trials, rows, the event log."""
