"""Lets `python -m vitbench.cli` work."""

from vitbench.cli.main import main

if __name__ == "__main__":
    main()
