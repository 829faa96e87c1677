"""`hpcml doctor` on faults that are planted: real ones, in ranks of its own, and others in facts of other machines."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpcml.doctor import report
from hpcml.doctor.catalogue import CATALOGUE
from hpcml.doctor.checks import binding, gpu, library, links, math_threads, shared_memory, software, storage
from hpcml.doctor.place import World
from hpcml.doctor.start import unmet

ROOT = Path(__file__).resolve().parents[2]
MPIEXEC = Path(sys.executable).with_name("mpiexec")
ALLOWED = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
ALLOWED |= {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe", "PYTHONPATH": str(ROOT)}
HANG = 300  # seconds after which it counts as hung

needs_mpiexec = pytest.mark.skipif(not MPIEXEC.exists(), reason=f"no mpiexec beside {sys.executable}")


def may_mount():
    """Whether this process may have mounts of its own."""
    program = shutil.which("unshare")
    return program and subprocess.run([program, "-m", "-u", "true"], capture_output=True).returncode == 0


needs_mounts = pytest.mark.skipif(not may_mount(), reason="mounts of one's own need root")


def doctor(*words, ranks=2, before="", second="", after=(), **environment):
    """Status and findings by check of the doctor on ranks started by mpiexec.

    before: a shell command, in mounts of its own, before mpiexec. second: one on rank 1, which is then another host.
    """
    command = [str(MPIEXEC), "-n", str(ranks)]
    program = [*words, sys.executable, "-m", "hpcml", "doctor", "--json", *after]
    if second:
        apart = f'hostname other; {second}; exec "$@"'
        case = '[ "${OMPI_COMM_WORLD_RANK:-$PMI_RANK}" = 1 ] || exec "$@"; exec unshare -m -u sh -ec "$0" sh "$@"'
        program = ["sh", "-ec", case, apart, *program]
    if before:
        command = ["unshare", "-m", "sh", "-ec", f'{before}; exec "$@"', "sh", *command]
    ran = subprocess.run(
        [*command, *program], env={**os.environ, **ALLOWED, **environment}, capture_output=True, text=True, timeout=HANG
    )
    try:
        findings = json.loads(ran.stdout)["findings"]
    except ValueError:
        raise AssertionError(f"status {ran.returncode}\n{ran.stdout}\n{ran.stderr}") from None
    by_check = {}
    for finding in findings:
        if finding["severity"] != "fine":
            assert finding["why"] and finding["fix"]
            by_check.setdefault(finding["check"], []).append(finding)
    return ran.returncode, by_check


@needs_mpiexec
@needs_mounts
def test_a_sound_place_has_no_error_and_two_hosts_are_two_nodes():
    status, found = doctor(second="true", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    assert status == 0
    # Of a machine with one core, and of a busy one, whose memory is no network.
    assert found.keys() <= {"binding", "math-threads", "links"}


@needs_mpiexec
def test_a_launcher_of_another_mpi():
    """Each rank loses what its launcher told the MPI library, as if it were of another: each is a world of one."""
    scrub = "unset PMI_FD PMI_PORT; for v in $(env | sed -n 's/^\\(PMIX[A-Z_0-9]*\\)=.*/\\1/p'); do unset $v; done; "
    status, found = doctor("sh", "-c", scrub + 'exec "$@"', "sh")
    assert status == 1
    (error,) = found["launcher"]
    assert error["severity"] == "error" and "started 2 processes, but each is an MPI world" in error["what"]
    assert "srun --mpi=pm" in error["fix"]


@needs_mpiexec
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2 or not shutil.which("taskset"), reason="needs two cores, taskset")
def test_two_ranks_bound_to_one_core():
    core = min(os.sched_getaffinity(0))
    status, found = doctor("taskset", "-c", str(core))
    assert status == 1
    assert f"ranks 0 and 1 on {os.uname().nodename} are bound to the same core {core};" in found["binding"][0]["what"]
    assert "bind-to" in found["binding"][0]["fix"]


@needs_mpiexec
@needs_mounts
def test_a_tiny_dev_shm():
    # MPICH would die of it, before it can be told: the ranks get theirs elsewhere.
    small = "mount -t tmpfs -o size=8m none /dev/shm"
    status, found = doctor(before=small, OMPI_MCA_btl="self,tcp", MPIR_CVAR_NOLOCAL="1")
    assert status == 1
    assert re.search(r"has [1-8] MiB free of 8; 2 ranks need 32", found["shared-memory"][0]["what"])
    assert "remount,size=1G" in found["shared-memory"][0]["fix"]


@needs_mpiexec
@needs_mounts
def test_a_working_directory_of_each_nodes_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, found = doctor(second=f"mount -t tmpfs none {tmp_path}; cd {tmp_path}")
    assert status == 1
    (error,) = found["storage"]
    assert f"{tmp_path}" in error["what"] and "is each node's own" in error["what"] and "other" in error["what"]
    assert not list(tmp_path.iterdir())  # nothing is left


@needs_mpiexec
@needs_mounts
def test_a_working_directory_that_cannot_be_written_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, found = doctor(
        before=f"mount --bind {tmp_path} {tmp_path}; mount -o remount,ro,bind {tmp_path}; cd {tmp_path}"
    )
    assert status == 1
    assert "Read-only file system" in found["storage"][0]["what"]


@needs_mpiexec
@needs_mounts
def test_no_folder_for_what_numba_compiles():
    frozen = f"mount --bind {ROOT} {ROOT}; mount -o remount,ro,bind {ROOT}; cd {ROOT}; export HOME=/proc/none"
    status, found = doctor(before=frozen, XDG_CACHE_HOME="/proc/none", NUMBA_CACHE_DIR="")
    assert status == 1
    (error,) = found["numba-cache"]
    assert "all ranks" in error["what"] and "NUMBA_CACHE_DIR" in error["fix"]


@needs_mpiexec
def test_more_threads_than_cores():
    status, found = doctor(OMP_NUM_THREADS="33", OPENBLAS_NUM_THREADS="33", MKL_NUM_THREADS="33")
    assert status == 0  # slow, not wrong
    assert (
        "2 ranks on" in found["math-threads"][0]["what"]
        and "export OMP_NUM_THREADS=" in found["math-threads"][0]["fix"]
    )


@needs_mpiexec
def test_mpi4py_for_another_mpi():
    from mpi4py import get_config

    ours = subprocess.run(
        [sys.executable, "-c", "from mpi4py import MPI; print(MPI.__file__)"], capture_output=True, text=True
    ).stdout
    if "MPI.openmpi." not in ours and "MPI.mpich." not in ours:
        pytest.skip(f"this mpi4py is built for one MPI alone: {get_config()}")
    other = "mpich" if "MPI.openmpi." in ours else "openmpi"
    status, found = doctor(MPI4PY_MPIABI=other)
    assert status == 1
    assert "mpi4py cannot be loaded: libmpi" in found["library"][0]["what"]
    assert "MPI4PY_MPIABI" in found["library"][0]["fix"]


CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t which, struct timespec *found) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(which, found);
    if (which == CLOCK_REALTIME) found->tv_sec += 90;
    return status;
}
"""


@needs_mpiexec
@needs_mounts
@pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc to make another clock with")
def test_a_clock_that_is_ahead(tmp_path):
    source, wrong = tmp_path / "clock.c", tmp_path / "clock.so"
    source.write_text(CLOCK)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", wrong, source, "-ldl"], check=True)
    _, found = doctor(second=f"export LD_PRELOAD={wrong}")
    assert "the clock of other is 90.0 s ahead of" in found["clocks"][0]["what"]
    assert "chron" in found["clocks"][0]["fix"]


@needs_mpiexec
def test_mpi_without_threads():
    _, found = doctor(MPI4PY_RC_THREAD_LEVEL="funneled")
    assert "MPI_THREAD_FUNNELED on all ranks" in found["thread-level"][0]["what"]


PROGRAM = """
import sys, time
from mpi4py import MPI
from hpcml.doctor import report
from hpcml.doctor.catalogue import Check
from hpcml.doctor.examination import examine
from hpcml.doctor.finding import fine

def fails(place):
    if place.rank == 1:
        raise OSError("no such luck")
    return {}

def sticks(place):
    if place.rank == 1:
        time.sleep(10_000)
    place.comm.Barrier()
    return {}

well = Check("well", "well", lambda place: {}, lambda world: [fine("well")], False)
bad = Check("bad", "bad", {look}, lambda world: [fine("unseen")], False)
told = lambda findings: print(report.as_json(findings), flush=True)
sys.exit(examine(MPI.COMM_WORLD, {patience}, told, (well, bad, well)))
"""


@needs_mpiexec
@pytest.mark.parametrize(
    "look, said, after",
    [("fails", "rank 1 on {host}: OSError: no such luck", True), ("sticks", "'bad' was not over after 3 s", False)],
)
def test_a_check_that_goes_wrong_on_one_rank_is_a_finding(look, said, after):
    program = PROGRAM.replace("{look}", look).replace("{patience}", "60" if after else "3")
    command = [str(MPIEXEC), "-n", "2", sys.executable, "-c", program]
    ran = subprocess.run(command, env={**os.environ, **ALLOWED}, capture_output=True, text=True, timeout=HANG)
    findings = json.JSONDecoder().raw_decode(ran.stdout)[0]["findings"]  # a launcher may have its say behind it
    assert ran.returncode != 0
    assert said.format(host=os.uname().nodename) in findings[0]["what"]
    assert [f["check"] for f in findings] == (["bad", "well", "well"] if after else ["bad", "well"])
    if not after:
        assert "rank 1" in ran.stderr and "rank 0" in ran.stderr


# --- in facts of machines that are not here


def world(facts, node_of=None):
    node_of = tuple(node_of or [0] * len(facts))
    return World(tuple(f"n{node}" for node in node_of), node_of, facts)


def cores(cpus, online=8, numa=None, memory=(0, 1)):
    numa = numa or {0: list(range(4)), 1: list(range(4, 8))}
    return {"cpus": cpus, "online": list(range(online)), "numa": numa, "memory": list(memory)}


def said(findings):
    return " | ".join(f"{f.severity}: {f.what}" for f in findings)


@pytest.mark.parametrize(
    "facts, expected",
    [
        ([cores(list(range(8)))] * 2, "fine: 2 ranks, not bound"),
        ([cores([0, 1]), cores([2, 3])], "fine: 2 ranks, 2 cores each"),
        ([cores([0, 1, 2, 3])] * 4, "fine: 4 ranks, 4 cores each"),  # an allocation, not bound within
        ([cores([0, 1])] * 4, "warning: 4 ranks on n0 share 2 cores"),
        ([cores([0, 1]), cores([1, 2])], "error: ranks 0 and 1 on n0 are bound to the same core 1; 5 of the node's 8"),
        ([cores([0])] * 3, "error: ranks 0 and 1 on n0 are bound to the same core 0, and 2 more pairs"),
        ([cores([3, 4]), cores([0, 1])], "warning: rank 0 on n0 is bound to cores 3-4, of NUMA domains 0-1"),
        ([cores([0, 1], memory=[1])], "error: rank 0 on n0 runs in NUMA domain 0, and its memory comes from 1"),
    ],
)
def test_bindings(facts, expected):
    assert said(binding.judge(world(facts))).startswith(expected)


def test_uneven_nodes():
    facts = [cores([rank]) for rank in range(4)]
    assert "3 ranks on n0, 1 on n1" in said(binding.judge(world(facts, [0, 0, 0, 1])))


def mpi(text, built="Open MPI 5.0.11", **more):
    return {"library": text, "built_for": built, "standard": "3.1", **more}


@pytest.mark.parametrize(
    "facts, expected",
    [
        (mpi("Open MPI v5.0.11"), "fine"),
        (mpi("Open MPI v4.1.4"), "warning: mpi4py was built for Open MPI 5.0.11"),
        (mpi("Intel(R) MPI Library 2021.9", "MPICH 4.2.0"), "fine"),
        (mpi("MPICH Version: 5.0.2"), "error: mpi4py was built for Open MPI"),
        (mpi("Open MPI v5.0.11", mpiexec="/x/mpiexec", mpiexec_is="mpich", beside="/v/mpiexec"), "fine"),
    ],
)
def test_libraries(facts, expected):
    findings = library.judge(world([facts]))
    assert said(findings).startswith(expected)
    if "mpiexec" in facts:
        assert "/x/mpiexec, is not of Open MPI" in findings[-1].what and 'PATH="/v:$PATH"' in findings[-1].fix


@pytest.mark.parametrize(
    "environment, said",
    [
        ({"PMIX_NAMESPACE": "x", "OMPI_COMM_WORLD_SIZE": "2"}, "the mpiexec of Open MPI started this"),
        ({"PMIX_NAMESPACE": "x", "SLURM_STEP_NUM_TASKS": "2"}, "srun --mpi=pmix started this"),
        ({"PMIX_NAMESPACE": "x", "PMI_RANK": "0"}, None),  # its own mpiexec, within a step
        ({}, None),
    ],
)
def test_a_launcher_that_would_end_mpi_at_its_start(environment, said):
    found = unmet(environment, "MPICH Version: 5.0.2", False)
    assert (found is None) == (said is None)
    if said:
        assert said in found.what and "srun --mpi=pmi2" in found.fix
    assert unmet(environment, "Open MPI v5.0.11", False) is None
    assert unmet(environment, "MPICH Version: 5.0.2", True) is None


@needs_mpiexec
def test_a_wrong_argument_is_told_once():
    command = [str(MPIEXEC), "-n", "2", sys.executable, "-m", "hpcml", "doctor", "--huh"]
    ran = subprocess.run(command, env={**os.environ, **ALLOWED}, capture_output=True, text=True, timeout=HANG)
    assert ran.returncode == 2 and ran.stderr.count("error: unrecognized") == 1


def test_ranks_of_two_libraries_and_two_pythons():
    assert said(library.judge(world([mpi("Open MPI v5.0.11"), mpi("MPICH Version: 4")], [0, 1]))).startswith("error")
    same = dict.fromkeys(software.PACKAGES, "1") | {"python": "3.11.7", "machine": "x86_64"}
    found = software.judge(world([same, {**same, "numpy": "2"}], [0, 1]))
    assert said(found) == "error: numpy differs: 1 on rank 0 on n0; 2 on rank 1 on n1"


@pytest.mark.parametrize(
    "free, size, expected", [(8, 64, "error"), (100, 100, "warning: /dev/shm on n0 has 100 MiB"), (4096, 8192, "fine")]
)
def test_dev_shm(free, size, expected):
    facts = {"size": size << 20, "free": free << 20, "writable": True, "ptrace_scope": 0}
    assert said(shared_memory.judge(world([facts] * 2))).startswith(expected)


def test_gpus():
    bare = {"devices": ["nvidia0"], "visible": None, "aware": False}
    found = said(gpu.judge(world([bare] * 2)))
    assert "not CUDA-aware" in found and "2 ranks on n0 share 1 GPU" in found
    assert said(gpu.judge(world([{**bare, "aware": True}]))).startswith("fine")


def test_threads_within_cores():
    facts = [
        {"cpus": [0, 1], "threads": 2, "set": {}},
        {"cpus": [2, 3], "threads": 2, "set": {}},
    ]
    assert said(math_threads.judge(world(facts))).startswith("fine: 2 threads")


def test_a_tournament_has_each_pair_once():
    for nodes in range(1, 12):
        seen = [pair for pairs in links.rounds(nodes) for pair in pairs]
        assert sorted(seen) == [(a, b) for a in range(nodes) for b in range(a + 1, nodes)]
        for pairs in links.rounds(nodes):
            places = [node for pair in pairs for node in pair]
            assert len(places) == len(set(places))


def network(nodes, slow=(), latency=None, duplex=1.0):
    """Facts of links at 1 GB/s; slow: (from, to) that are ten times slower."""
    rate = {(a, b): 1e8 if (a, b) in slow else 1e9 for a in range(nodes) for b in range(nodes)}
    facts = [{"pairs": []} for _ in range(nodes)]
    for a in range(nodes):
        for b in range(a + 1, nodes):
            both = duplex * min(rate[a, b], rate[b, a])
            late = (latency or {}).get((a, b), 2e-6)
            pair = {"there": rate[a, b], "back": rate[b, a], "both": both, "latency": late, "nbytes": 1 << 20}
            facts[a]["pairs"].append({"nodes": [a, b], **pair})
    return world(facts, range(nodes))


def test_links():
    assert said(links.judge(network(4))).startswith(
        "fine: 6 pairs of nodes: 8.0 Gbit/s to 8.0 Gbit/s, latency 2 to 2 µs"
    )
    everywhere = {(2, other) for other in range(4)} | {(other, 2) for other in range(4)}
    assert said(links.judge(network(4, everywhere))).startswith(
        "warning: n2 sends and receives at 800 Mbit/s; the median"
    )
    assert said(links.judge(network(4, {(2, o) for o in range(4)}))).startswith("warning: n2 sends at 800 Mbit/s")
    assert said(links.judge(network(4, {(3, 1)}))).startswith("warning: from n3 to n1 800 Mbit/s")
    late = network(4, latency={(0, 3): 400e-6})
    assert said(links.judge(late)).startswith("warning: latency between n0 and n3 is 400 µs; the median is 2 µs")
    half = links.judge(network(2, duplex=0.5))
    assert "get 50% of the rate each" in said(half) and "btl_tcp_flags" in half[0].fix


def test_the_last_of_the_longest_mounts_tells_the_file_system(tmp_path):
    assert storage.kind_of(Path("/proc/self")) == "proc"
    assert storage.kind_of(tmp_path) != "unknown"


def test_report():
    from hpcml.doctor.finding import error, fine, warning

    first, second, third = CATALOGUE[:3]
    found = [
        (first, fine("all well")),
        (second, warning("slow", "it takes long", "run faster")),
        (third, error("a", "b", "c")),
    ]
    lines = report.text(found).splitlines()
    assert (
        lines[0].startswith("ERROR   software: a")
        and lines[1].split() == ["why", "b"]
        and lines[2].split() == ["fix", "c"]
    )
    assert lines[-2:] == ["ok      MPI library: all well", "1 error, 1 warning, 1 check found nothing wrong"]
    assert json.loads(report.as_json(found))["error"] is True
