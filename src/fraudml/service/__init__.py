"""HTTP in, Scorer, HTTP out."""
