"""How a list of trials is executed: in this process, or by one process a core; same interface, same records."""
