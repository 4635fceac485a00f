"""The scoreboard of a results root."""
