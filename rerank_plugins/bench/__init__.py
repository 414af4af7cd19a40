"""Speed of backends: texts, the clock, the reference, the search for settings."""
