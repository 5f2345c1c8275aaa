"""One folder per role, one file per technology."""
