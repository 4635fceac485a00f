"""Looking into trained networks: what `vitbench inspect` measures, and the tables and figures that it leaves."""
