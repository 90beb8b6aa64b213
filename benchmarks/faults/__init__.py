"""Faults at every point where a stage touches the disk: what `make faults` tries, and how the run ends after each."""

from __future__ import annotations

from stages import EXTRAS, PIPELINE

STAGES = (*PIPELINE, *EXTRAS)
