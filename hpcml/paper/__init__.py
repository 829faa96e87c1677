"""Collectives on paper, from the schedules that run: simulated on machines beyond any we have, and drawn.

`deferred` makes rounds of a schedule without computing them, `topology` knows who shares a link with whom,
`simulation` puts a schedule on a topology, `comparison` does so for all algorithms, `report` shows the result;
`messages` spells a schedule out, `diagram` draws it in space and time. Nothing here starts MPI.
"""
