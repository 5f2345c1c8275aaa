"""What is watched while the model serves."""
