"""The command line: finds the command, and sees to it that every rank ends alike and a message is printed once."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from hpcml.runs.launch import Launch, find_launch, lone_worlds
from hpcml.version import __version__

COMMANDS = (
    "train",
    "predict",
    "bench",
    "tune",
    "simulate",
    "draw",
    "verify",
    "doctor",
    "launch",
    "submit",
    "jobs",
    "top",
    "runs",
)


class Ending(Exception):
    """The end of the program before its command runs: help (status 0) or a wrong argument (status 2)."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status, self.text = status, text


class Parser(argparse.ArgumentParser):
    """Raises `Ending` where argparse prints and leaves: every rank parses, but one prints."""

    def __init__(self, **options) -> None:
        super().__init__(allow_abbrev=False, **options)

    def print_help(self, file=None) -> NoReturn:
        raise Ending(0, self.format_help())

    def error(self, message: str) -> NoReturn:
        raise Ending(2, f"{self.format_usage()}{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status, the same on every rank: 0, 2 for what the user can mend.

    An exception that nobody expected ends all ranks at once, with the traceback of the rank that raised it.
    """
    launch = find_launch()
    argv = sys.argv[1:] if argv is None else argv
    try:
        run, args = parse(argv)
        ending = None
    except Ending as caught:
        ending = caught
    if list(argv[:1]) == ["doctor"]:  # which starts MPI itself, and with care
        if ending is not None and launch is not None and launch.process != 0:
            return 0  # a launcher ends all at the first that leaves with another status
        launch = None
    if launch is not None:
        ending = _first_ending(ending, launch)
    if ending is not None:
        print(ending.text, end="", file=sys.stderr if ending.status else sys.stdout, flush=True)
        _note_status(ending.status)
        if launch is not None:
            _wait_for_all()
        return ending.status
    try:
        status = run(args)
        if launch is not None and launch.process == 0:
            _note_status(status)
        return status
    except BrokenPipeError:
        # Who read the output has left (`| head`). Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:
        return _end(error)


def parse(argv: Sequence[str]) -> tuple[Callable[[argparse.Namespace], int], argparse.Namespace]:
    """The `run` of the command that the arguments ask for, and its arguments. Raises `Ending`."""
    if not argv or argv[0] in ("-h", "--help"):
        raise Ending(0 if argv else 2, _overview())
    if argv[0] == "--version":
        raise Ending(0, f"hpcml {__version__}\n")
    if argv[0] not in COMMANDS:
        raise Ending(2, f"hpcml: error: no command {argv[0]!r}; the commands are {', '.join(COMMANDS)}\n")
    command = importlib.import_module(f"hpcml.commands.{argv[0]}")
    parser = Parser(prog=f"hpcml {argv[0]}", description=command.HELP)
    command.add_arguments(parser)
    return command.run, parser.parse_args(argv[1:])


def _overview() -> str:
    helps = ((name, importlib.import_module(f"hpcml.commands.{name}").HELP) for name in COMMANDS)
    commands = "\n".join(f"  {name:10}{text}" for name, text in helps)
    return (
        "usage: hpcml COMMAND ...\n       mpiexec -n RANKS hpcml COMMAND ...\n\n"
        f"commands:\n{commands}\n\n'hpcml COMMAND --help' tells the arguments of a command.\n"
    )


def _first_ending(ending: Ending | None, launch: Launch) -> Ending | None:
    """What the first rank that ends has to say; only rank 0 has its text. Collective over all ranks: should
    they differ (a launcher can give each its own arguments), none goes on without the others."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        return Ending(2, f"hpcml: error: {error}\n'hpcml doctor' says more\n" if launch.process == 0 else "")

    comm = MPI.COMM_WORLD
    if said := lone_worlds(launch, comm.size, MPI.Get_library_version()):
        return Ending(2, f"hpcml: error: {said}\n" if launch.process == 0 else "")
    found = comm.allgather(None if ending is None else (ending.status, ending.text))
    rank, first = next(((rank, said) for rank, said in enumerate(found) if said is not None), (0, None))
    if first is None:
        return None
    text = first[1] if rank == 0 else f"rank {rank}: {first[1]}"
    return Ending(first[0], text if comm.rank == 0 else "")


def _wait_for_all() -> None:
    """Until rank 0 has printed: a launcher ends all ranks as soon as one leaves with another status than 0."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):
        return
    MPI.COMM_WORLD.barrier()


def _note_status(status: int) -> None:
    """Where `hpcml launch` wants to know: what a launcher returns is not always what the ranks have left with."""
    if path := os.environ.get("HPCML_STATUS_FILE"):
        with open(path, "w", encoding="ascii") as file:
            file.write(str(status))


def _end(error: BaseException) -> int:
    """End this rank, and the others, for an exception that came out of a command."""
    from mpi4py import MPI

    from hpcml.collectives import CollectiveError
    from hpcml.collectives.failures import is_broken, speaker

    if not MPI.Is_initialized():  # a command that works on paper
        said = ["hpcml: interrupted\n"] if isinstance(error, KeyboardInterrupt) else traceback.format_exception(error)
        sys.stderr.write("".join(said))
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    comm = MPI.COMM_WORLD
    if isinstance(error, CollectiveError):
        if comm.rank == speaker():
            print(f"hpcml: error: {error}", file=sys.stderr, flush=True)
            _note_status(2)
        if not is_broken(comm):
            comm.barrier()
        return 2
    if isinstance(error, KeyboardInterrupt):
        print("hpcml: interrupted", file=sys.stderr, flush=True)
        status = 130
    else:
        # One write, so that the lines of several ranks do not mix.
        text = "".join(traceback.format_exception(error))
        sys.stderr.write(f"hpcml: rank {comm.rank} of {comm.size} failed:\n{text}")
        sys.stderr.flush()
        status = 1
        if not isinstance(error, MPI.Exception):  # else the fault may be another rank's, or the network's
            _note_status(status)
    if comm.size > 1:
        comm.Abort(status)
    return status
