"""How a list of trials is executed: in this process, in one process per core, or as stacks, with equal records."""
