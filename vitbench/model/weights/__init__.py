"""Starting weights: where they come from, and how they are fitted to another model."""
