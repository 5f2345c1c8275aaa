"""How well fraud is found, estimated while most labels are still on their way."""
