"""How fast vitbench is, against the loops that people write; every figure is measured on the machine at hand."""
