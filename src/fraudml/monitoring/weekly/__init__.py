"""The weekly report for people who decide: money saved, missed and wrongly declined, patterns, changes of models."""
