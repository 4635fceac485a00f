"""How an experiment becomes trials."""
