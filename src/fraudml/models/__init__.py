"""What turns feature vectors into scores: bundles, the runtime, explanations, the registry port."""
