"""The two executors of a table do the same, and what the MPI library reports becomes an error that says where."""

import numpy as np
import pytest

from hpcml.collectives import table as t
from hpcml.collectives.algorithms import of
from hpcml.collectives.binding import Binding
from hpcml.collectives.channel import channel_of
from hpcml.collectives.errors import CommunicationError
from hpcml.collectives.ops import OPS
from hpcml.collectives.program import Compiled, Walked


@pytest.mark.parametrize("algorithm", [a.name for a in of("allreduce")])
def test_compiled_and_walked_give_the_same_bits(comm, algorithm):
    channel = channel_of(comm)
    for op in ("sum", "mean", "min", "prod"):
        for dtype in ("e", "f4", "f8", "F"):
            if dtype == "F" and op == "min":
                continue
            x = np.random.default_rng(comm.rank).standard_normal(1001).astype(dtype)
            results = []
            for executor in (Compiled, Walked):
                binding = Binding(channel, "allreduce", algorithm, OPS[op], x.dtype, (x.size,))
                table = binding.table(in_place=False)
                program = executor(channel, table, channel.next_tag(), OPS[op], x.dtype)
                y = np.empty_like(x)
                program.bind(x, y)
                program.start()
                program.wait()
                results.append(y.tobytes())
            assert results[0] == results[1]


def test_an_error_of_the_library_says_what_was_done_and_with_whom(comm):
    channel = channel_of(comm)
    rows = np.zeros((1, t.COLUMNS), np.int64)
    rows[0, t.CODE], rows[0, t.PEER], rows[0, t.COUNT] = t.SEND, comm.size + 7, 8
    program = Compiled(channel, t.Table(rows, 1, 0, 8), 1, None, np.dtype("f8"))
    program.bind(np.ones(1), np.ones(1))
    program.start()
    with pytest.raises(
        CommunicationError, match=f"rank {comm.rank} of .*while sending to rank {comm.size + 7}: .*rank"
    ):
        program.wait()
    with pytest.raises(CommunicationError, match="interrupted or failed before"):
        program.start()
