"""The command line before any command runs: what it imports, refuses and prints."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpcml.cli import COMMANDS, Ending, main, parse
from hpcml.runs.launch import LAUNCHERS
from hpcml.version import __version__

LAUNCHER_VARIABLES = [name for _, *names in LAUNCHERS for name in names]


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"], ["train", "--model", "oracle"], ["sing"]])
def test_neither_mpi_nor_numba_is_loaded_to_print_help_or_an_error(argv):
    program = f"""
import sys
from hpcml.cli import main
main({argv!r})
loaded = [name for name in ("mpi4py.MPI", "numba", "sklearn", "matplotlib", "cupy") if name in sys.modules]
sys.exit(f"loaded {{loaded}}" if loaded else 0)
"""
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER_VARIABLES}
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert found.returncode == 0, found.stderr


def test_overview_names_every_command(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n  {command} " in printed
    assert main([]) == 2


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hpcml {__version__}\n"


def test_unknown_command(capsys):
    assert main(["tarin"]) == 2
    assert "no command 'tarin'; the commands are train, predict" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--model", "oracle"], "invalid choice: 'oracle' (choose from"),
        (["--optimizer", "lion"], "invalid choice: 'lion'"),
        (["--epochs", "0"], "--epochs: found '0', expected a whole number from 1 on"),
        (["--epochs", "two"], "--epochs: found 'two'"),
        (["--batch-size", "1.5"], "--batch-size: found '1.5'"),
        (["--learning-rate", "-1"], "--learning-rate: found '-1', expected a number above 0"),
        (["--learning-rate", "nan"], "found 'nan'"),
        (["--test", "1"], "--test: found '1', expected a number from 0 to below 1"),
        (["--hidden", "128,0"], "--hidden: found '0'"),
        (["--seed", "-1"], "--seed: found '-1'"),
        (["--delimiter", "ab"], "--delimiter: found 'ab', expected one character"),
        (["--learning", "1"], "unrecognized arguments: --learning"),
    ],
)
def test_wrong_arguments_are_refused_while_parsing(arguments, said):
    with pytest.raises(Ending) as ending:
        parse(["train", "--data", "digits", *arguments])
    assert ending.value.status == 2
    assert said in ending.value.text


def test_data_is_required():
    with pytest.raises(Ending, match="--data"):
        parse(["train"])


def test_arguments_arrive():
    _, args = parse(
        [
            "train",
            "--data",
            "d",
            "--hidden",
            "64,32",
            "--drop",
            "a, b",
            "--delimiter",
            "tab",
            "--target",
            "-1",
        ]
    )
    assert (args.hidden, args.drop, args.delimiter, args.target) == ((64, 32), ("a", "b"), "\t", "-1")


FAILING = """
import sys
from mpi4py import MPI
from hpcml.commands import predict
from hpcml.cli import main

def run(args):
    if MPI.COMM_WORLD.rank == 1:
        raise {exception}
    MPI.COMM_WORLD.barrier()
    return 0

predict.run = run
sys.exit(main({argv}))
"""


def on_two_ranks(program):
    """Run a program by the mpiexec of this environment: started apart, for this process starts no MPI."""
    mpiexec = Path(sys.executable).with_name("mpiexec")
    if not mpiexec.exists():
        pytest.skip(f"no mpiexec beside {sys.executable}")
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    allowed["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
    command = [str(mpiexec), "-n", "2", sys.executable, "-c", program]
    hang = 300  # seconds after which it counts as hung
    return subprocess.run(command, env={**os.environ, **allowed}, capture_output=True, text=True, timeout=hang)


def test_an_exception_on_one_rank_ends_all_with_its_traceback():
    found = on_two_ranks(FAILING.format(exception="ZeroDivisionError('only here')", argv=["predict", "a", "b"]))
    assert found.returncode != 0
    assert found.stderr.count("hpcml: rank 1 of 2 failed:") == 1
    assert "ZeroDivisionError: only here" in found.stderr


def test_an_interrupt_of_one_rank_ends_all_without_a_traceback():
    found = on_two_ranks(FAILING.format(exception="KeyboardInterrupt", argv=["predict", "a", "b"]))
    assert found.returncode != 0
    assert "hpcml: interrupted" in found.stderr and "Traceback" not in found.stderr


@pytest.mark.parametrize(
    "argv", ["['predict', 'a', 'b', '--huh']", "['predict', 'a', 'b'] + ['--huh'] * MPI.COMM_WORLD.rank"]
)
def test_wrong_arguments_are_told_once_whichever_rank_has_them(argv):
    found = on_two_ranks(FAILING.format(exception="AssertionError", argv=argv))
    assert found.returncode == 2
    assert found.stderr.count("error: ") == 1 and "--huh" in found.stderr
    assert "AssertionError" not in found.stderr
