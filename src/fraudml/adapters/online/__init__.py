"""Online stores: the state from which features are read in real time."""
