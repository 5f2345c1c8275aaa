"""History played back: the same transactions and labels, in the order and at the pace in which they came."""
