"""What a feature means, and the ports of the stores that compute it."""
