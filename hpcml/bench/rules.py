"""The MPI libraries' own tuning files: which of their algorithms for which bytes, on one number of ranks.

Open MPI: the dynamic rules of its component `tuned`, format 1 (ompi/mca/coll/tuned/coll_tuned_dynamic_file.c, as of
5.0). MPICH: the selection table in JSON, as of 4.0 to 5.0 (src/mpi/coll/src/csel.c). MPICH reads a file in place of
its built-in table, not beside it: ours is that table, taken from the library, with the branches for this number of
ranks put first.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# The places in the enumeration COLLTYPE of ompi/mca/coll/base/coll_base_functions.h.
OPEN_MPI_NUMBERS = {
    "Allgather": 0,
    "Allreduce": 2,
    "Alltoall": 3,
    "Bcast": 7,
    "Reduce": 11,
    "Reduce_scatter": 12,
    "Reduce_scatter_block": 13,
}
# The operator by which MPICH's table can ask for the bytes; of all-to-all it asks for those of one part.
MPICH_BYTES = {
    "Allgather": "total_msg_size",
    "Allreduce": "avg_msg_size",
    "Alltoall": "avg_msg_size",
    "Bcast": "avg_msg_size",
    "Reduce": "avg_msg_size",
    "Reduce_scatter": "total_msg_size",
    "Reduce_scatter_block": "total_msg_size",
}
# The operators under which alone the measured algorithms may be used: with what they were measured on.
MPICH_CONDITIONS = {
    "Allreduce": (("is_op_built_in=yes", "is_op_built_in=no"),),
    "Reduce": (("is_op_built_in=yes", "is_op_built_in=no"),),
    "Reduce_scatter": (("is_commutative=yes", "is_commutative=no"),),
    "Reduce_scatter_block": (("is_commutative=yes", "is_commutative=no"),),
    "Alltoall": (("is_sendbuf_inplace=no", "is_sendbuf_inplace=yes"),),
}


class Rule(NamedTuple):
    """From ``start`` bytes of the whole array on: the library's algorithm of that name and number; "" and 0 for its
    own decision. segment: bytes, 0 for none."""

    start: int
    name: str
    number: int
    segment: int = 0


Choice = Mapping[str, Sequence[Rule]]  # mpi4py's function to its rules, in the order of their bytes, the first from 0


def between(smaller: int, larger: int) -> int:
    """The bytes from which on the larger of two measured sizes speaks: the geometric mean of both."""
    return round(math.sqrt(smaller * larger))


def open_mpi_text(choice: Choice, ranks: int) -> str:
    """The file for `coll_tuned_dynamic_rules_filename`. Communicators of other sizes keep the library's decisions.

    A rule for a size of communicators holds up to the next size that has one, and the first holds for smaller ones
    too: fewer ranks and more ranks get a rule that leaves the decision to the library.
    """
    lines = [f"{len(choice)} # collectives"]
    for function, rules in choice.items():
        lines += [f"{OPEN_MPI_NUMBERS[function]} # {function}", "3 # sizes of communicators"]
        lines += ["0 # ranks and more", "1", "0 0 0 0", f"{ranks} # ranks"]
        lines.append(f"{len(rules)} # sizes of messages: bytes, algorithm, fan-out, segment")
        lines += [f"{r.start} {r.number} 0 {r.segment} # {r.name or 'its own decision'}" for r in rules]
        lines += [f"{ranks + 1} # ranks and more", "1", "0 0 0 0"]
    return "\n".join(lines) + "\n"


def mpich_table(library: bytes) -> dict:
    """The built-in selection table in the bytes of MPICH's shared library.

    Raises:
        ValueError: it has none of the known kind.
    """
    for found in re.finditer(rb'\{"collective=[^\x00]*\}(?=\x00)', library):
        if b'"algorithm=MPIR_Gather_intra' in found.group():
            return json.loads(found.group())
    raise ValueError("this MPICH has no selection table of the kind that is known here: versions 4.0 to 5.0 have")


def mpich_text(choice: Choice, ranks: int, built_in: dict) -> str:
    """The file for `MPIR_CVAR_COLL_SELECTION_TUNING_JSON_FILE`: ``built_in`` with these rules in it."""
    table = json.loads(json.dumps(built_in))
    for function, rules in choice.items():
        own = table[f"collective={function.lower()}"]["comm_type=intra"]
        told = _mpich_branch(function, rules, ranks, own)
        branches = {f"comm_size<={ranks - 1}": own, f"comm_size<={ranks}": told, "comm_size=any": own}
        table[f"collective={function.lower()}"]["comm_type=intra"] = branches
    return json.dumps(table, indent=1) + "\n"


def _mpich_branch(function: str, rules: Sequence[Rule], ranks: int, own: dict) -> dict:
    ends = [rule.start - 1 for rule in rules[1:]]
    operator = MPICH_BYTES[function]
    share = ranks if function == "Alltoall" else 1
    keys = [f"{operator}<={end // share}" for end in ends] + [f"{operator}=any"]
    branch = {
        key: {f"algorithm={mpich_name(function, rule.name)}": {}} if rule.name else own
        for key, rule in zip(keys, rules, strict=True)
    }
    if function in ("Allreduce", "Reduce"):  # the halving algorithms need an item a rank
        branch = {"count<pow2": own, "count=any": branch}
    for holds, fails in MPICH_CONDITIONS.get(function, ()):
        branch = {holds: branch, fails: own}
    return branch


def mpich_name(function: str, name: str) -> str:
    """``MPIR_Allreduce_intra_ring``."""
    kind = "allcomm" if name == "nb" else "intra"
    return f"MPIR_{function}_{kind}_{name}"
