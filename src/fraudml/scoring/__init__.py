"""What every process that scores runs beside its input: models that change, guardrails, shadows, state that refills."""
