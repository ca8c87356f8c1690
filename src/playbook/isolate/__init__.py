"""Which layer fails, and what is the least that still fails."""
