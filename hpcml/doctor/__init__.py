"""`hpcml doctor`: what is wrong with the place that ranks run in, why it matters, and what to do about it.

A check is a module with `look(place) -> dict`, which runs on every rank and finds facts, and `judge(world) ->
findings`, which is arithmetic on the facts of all ranks. The catalogue has one row for each.
"""
