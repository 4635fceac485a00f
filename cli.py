"""Lets `python cli.py` work from a checkout."""

from vitbench.cli.main import main

if __name__ == "__main__":
    main()
