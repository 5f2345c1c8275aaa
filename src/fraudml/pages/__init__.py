"""Self-contained HTML pages for people: what the reports have in common."""
