"""Faults at every point where a stage touches the disk: what `make faults` tries, and how the run ends after each."""
