"""Ranks that wait for each other on different communicators: a circle of waits that nobody will leave.

On one communicator calls are numbered, and calls that differ are found out by their numbers. Where rank 1 calls on a
sub-communicator what the others call on its parent, each communicator sees only a rank that is late. So a rank that has
waited for long sends a probe to the rank that it waits for; who waits as well passes it on to the rank that *it* waits
for; and a probe that comes back has found a circle (Chandy, Misra and Haas, 1983: "Distributed deadlock detection",
the model in which a process waits for one other at a time).

A rank waits in this sense only for what the other has not done yet. So the probe says which of the messages between the
two it is about, and goes no further where the other has posted its side: then the message is on its way.

Only a rank's main thread is looked at, and nothing is said where other threads of the program might make the call.
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

from mpi4py import MPI

from hpcml.collectives import table as t
from hpcml.collectives.waits import OWN_THREADS, waits

if TYPE_CHECKING:
    from hpcml.collectives.channel import Channel
    from hpcml.collectives.stall import Stall

LINE_LENGTH = 160


def ask_around(stall: Stall) -> None:
    """Send a probe for ``stall``."""
    if stall is _only_wait():
        _pass_on(stall, [])


def heard(channel: Channel, source: int, number: int, text: str) -> str | None:
    """A probe from ``source``, which waits for this rank in the call of that ``number``.

    Returns what each rank of a circle is in, if it is closed; passes it on if this rank waits, too.
    """
    stall = _only_wait()
    if stall is None:
        return None
    tag, code, nth, hops = json.loads(text)
    if channel.number >= number:  # this rank has entered that call
        same = stall.channel is channel and stall.number == number and stall.tag == tag
        if not same or _posted(stall, code, source) >= nth:
            return None
    me = MPI.COMM_WORLD.rank
    if hops[0][:2] == [me, stall.serial]:
        return "; ".join(line for _, _, line in sorted(hops))
    if all(rank != me for rank, _, _ in hops):
        _pass_on(stall, hops)
    return None


def _only_wait() -> Stall | None:
    """The wait that this rank is in, if nothing else goes on in it."""
    from hpcml.collectives.stall import Stall

    main = threading.main_thread()
    if any(thread is not main and not thread.name.startswith(OWN_THREADS) for thread in threading.enumerate()):
        return None
    mine = [wait for wait in list(waits()) if isinstance(wait, Stall) and wait.thread == main.ident]
    return mine[0] if len(mine) == 1 and mine[0].peer != MPI.PROC_NULL else None


def _pass_on(stall: Stall, hops: list) -> None:
    from hpcml.collectives.stall import AGREEING, PROBE, TEXT_BYTES

    channel, call = stall.channel, stall.channel.call_numbered(stall.number) or ""
    where = f" at {stall.site}" if stall.site else ""
    line = f"rank {MPI.COMM_WORLD.rank}: {call.removeprefix(AGREEING)}"[:LINE_LENGTH]
    line += f"{where}, on a communicator of {channel.size} ranks"
    message = json.dumps([stall.tag, *_awaited(stall), [*hops, [MPI.COMM_WORLD.rank, stall.serial, line]]])
    if len(message) <= TEXT_BYTES:  # a circle too long to tell is left to the watchdog
        channel.alarms.tell(stall.peer, PROBE, stall.number, message)


def _awaited(stall: Stall) -> tuple[int, int]:
    """What the other has to do for this wait to end: (`table.SEND` or `RECV`, that for the n-th time to this rank)."""
    before = stall.rows[: stall.row]
    slot = stall.rows[stall.row][t.SLOT]
    post = max(i for i, row in enumerate(before) if row[t.CODE] in (t.SEND, t.RECV) and row[t.SLOT] == slot)
    code = int(before[post][t.CODE])
    nth = sum(row[t.CODE] == code and row[t.PEER] == stall.peer for row in before[: post + 1])
    return (t.SEND if code == t.RECV else t.RECV), int(nth)


def _posted(stall: Stall, code: int, peer: int) -> int:
    """How many times this rank has done that to ``peer`` so far."""
    return sum(row[t.CODE] == code and row[t.PEER] == peer for row in stall.rows[: stall.row])
