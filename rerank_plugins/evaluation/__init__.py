"""What a backend costs, and what it brings."""
