"""Lets `python cli.py` work from a checkout."""

from vitbench.cli import main

if __name__ == "__main__":
    main()
