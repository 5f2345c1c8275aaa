"""From history to a bundle: point-in-time data sets, splits, model families, evaluation."""
