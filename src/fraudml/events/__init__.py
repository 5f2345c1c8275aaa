"""What comes in: transactions and labels, validated into one normal form."""
