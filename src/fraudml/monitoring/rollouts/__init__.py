"""Statistics of a rollout: guardrails that stop a bad challenger, and the report that compares arms."""
