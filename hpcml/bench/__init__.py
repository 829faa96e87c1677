"""Timing of collectives: `measure` takes the times, `report` shows them."""
