"""The bytes of a ring all-reduce through plain TCP sockets: what they take where nobody polls and nothing is folded.

Each rank sends to the next one and receives from the one before, in threads that sleep in the system until their calls
are done. No library can move these bytes with less work for the processors, so nothing is hidden better than this.
"""

from __future__ import annotations

import socket
import threading

from mpi4py import MPI

from hpcml.bench.gloo import address


class Sockets:
    """Made by all ranks of ``comm``."""

    def __init__(self, nbytes: int, comm: MPI.Intracomm) -> None:
        """nbytes: of the array that would be reduced: 2(p−1)/p times as many are sent and received."""
        length = 2 * (comm.size - 1) * nbytes // comm.size
        self._outgoing, self._incoming = bytes(length), bytearray(length)
        with socket.create_server((address(comm), 0)) as server:
            places = comm.allgather(server.getsockname())
            self._next = socket.create_connection(places[(comm.rank + 1) % comm.size])
            self._before = server.accept()[0]

    def begin(self) -> list[threading.Thread]:
        threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]
        for thread in threads:
            thread.start()
        return threads

    def complete(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.join()

    def close(self) -> None:
        self._next.close()
        self._before.close()

    def _send(self) -> None:
        self._next.sendall(self._outgoing)

    def _receive(self) -> None:
        rest = memoryview(self._incoming)
        while rest:
            count = self._before.recv_into(rest, 0, socket.MSG_WAITALL)
            if not count:
                raise ConnectionError("the rank before closed the connection in the middle of a run")
            rest = rest[count:]
