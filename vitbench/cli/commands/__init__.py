"""What the commands do, one file a group; `vitbench.cli` parses and calls one function here."""
