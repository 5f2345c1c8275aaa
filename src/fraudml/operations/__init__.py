"""What is done to a running installation as a whole: moving it, checking it."""
