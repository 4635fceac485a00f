"""What the commands do, one file a group; `vitbench.cli.main` parses and calls one function here."""
