"""Play the tables of all ranks in one process: the executor of tests that need no MPI.

Ranks take turns in a random order. Messages between two ranks match in the order in which they were posted, and a send
is complete only once its receive is posted: the strictest behaviour that MPI allows, so what could deadlock, does.
"""

from __future__ import annotations

from collections import defaultdict, deque

import numpy as np

from hpcml.collectives import table as t


class Deadlock(AssertionError):
    pass


class LoweredRanks:
    """``memory[rank]`` is the triple (INPUT, OUTPUT, SCRATCH) of int64 arrays."""

    def __init__(self, tables, memory, finish, seed=0):
        self.tables, self.memory, self.finish = tables, memory, finish
        self.rng = np.random.default_rng(seed)
        self.at = [0] * len(tables)
        self.sends, self.receives = defaultdict(deque), defaultdict(deque)
        self.under_way = [set() for _ in tables]

    def play(self):
        while any(self._rows_left(r) for r in range(len(self.tables))):
            moved = False
            for rank in self.rng.permutation(len(self.tables)):
                for _ in range(self.rng.integers(1, 4)):
                    moved |= self._rows_left(rank) and self._step(rank)
            if not moved:
                raise Deadlock(f"all ranks wait, at rows {self.at}")

    def _rows_left(self, rank):
        return self.at[rank] < len(self.tables[rank].rows)

    def _view(self, rank, buffer, at, nbytes):
        assert at >= 0 and at % 8 == 0 and at + nbytes <= self.memory[rank][buffer].nbytes, (rank, buffer, at, nbytes)
        return self.memory[rank][buffer][at // 8 : (at + nbytes) // 8]

    def _step(self, rank):
        row = self.tables[rank].rows[self.at[rank]]
        code, peer, slot, count = (int(v) for v in row[[t.CODE, t.PEER, t.SLOT, t.COUNT]])
        if code == t.SEND:
            self._post(rank, slot)
            self.sends[rank, peer].append((slot, (rank, row[t.A], row[t.A_AT], count)))
            self._match(rank, peer)
        elif code == t.RECV:
            self._post(rank, slot)
            self.receives[peer, rank].append((slot, (rank, row[t.DST], row[t.DST_AT], count)))
            self._match(peer, rank)
        elif code == t.WAIT:
            if slot in self.under_way[rank]:
                return False
        else:
            nbytes = count if code == t.COPY else 8 * count
            dst = self._view(rank, row[t.DST], row[t.DST_AT], nbytes)
            a = self._view(rank, row[t.A], row[t.A_AT], nbytes)
            if code == t.FOLD:
                dst[:] = a + self._view(rank, row[t.B], row[t.B_AT], nbytes)
            else:
                dst[:] = self.finish(a) if code == t.FINISH else a
        self.at[rank] += 1
        return True

    def _post(self, rank, slot):
        assert slot not in self.under_way[rank], f"rank {rank} posts twice with slot {slot}"
        self.under_way[rank].add(slot)

    def _match(self, origin, dest):
        while self.sends[origin, dest] and self.receives[origin, dest]:
            sent, what = self.sends[origin, dest].popleft()
            received, where = self.receives[origin, dest].popleft()
            assert what[3] == where[3], f"rank {origin} sends {what[3]} bytes to rank {dest}, which expects {where[3]}"
            # Data move only now, when both are posted: a buffer overwritten too early is read with its new value.
            self._view(*where)[:] = self._view(*what)
            self.under_way[origin].discard(sent)
            self.under_way[dest].discard(received)
