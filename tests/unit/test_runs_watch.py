"""What watches a run: rules, alerts, its live status, Prometheus, TensorBoard; each by records of a run."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from hpcml.runs import alerts, live, prometheus, rules
from hpcml.runs.stragglers import named, stragglers

NAN = float("nan")


def step(loss=0.5, epoch=1, number=1, samples=32, loads=None):
    return {
        "epoch": epoch,
        "step": number,
        "steps": 10,
        "loss": loss,
        "samples": samples,
        "learning_rate": 0.1,
        "seconds": 0.01,
        "compute_seconds": 0.008,
        "communication_seconds": 0.002,
        "loads": loads,
    }


def epoch(number=1, **more):
    return {"epoch": number, "step": 10 * number, "loss": 0.25, "accuracy": 0.9, "seconds": 1.0, **more}


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    "seconds, late",
    [
        ([], []),
        ([1.0], []),
        ([0.1, 0.1], []),
        ([0.1, 0.2], [1]),
        ([0.1, 0.1, 0.5, 0.11, 0.3], [2, 4]),
        ([1e-4, 5e-4, 1e-4], []),  # tenths of a millisecond
    ],
)
def test_stragglers(seconds, late):
    assert stragglers(seconds) == late


def test_stragglers_are_named():
    said = named([("a", 0.1), ("b", 0.25), ("b", 0.1)], [1])
    assert said.startswith("rank 1 on b computes 250 ms a step; the median is 100 ms")


def test_a_loss_that_is_no_number():
    rule = rules.NotFinite()
    assert rule.look(step(0.5), False) == {}
    assert "nan in epoch 1" in rule.look(step(NAN), False)["loss"]


def test_divergence():
    rule = rules.Diverging()
    falling = [2.0 * 0.95**n for n in range(60)]
    assert not any(rule.look(step(loss), False) for loss in falling)
    assert not any(rule.look(step(loss), False) for loss in [0.2, 0.05] * 40)  # noise at the bottom is none
    said = [rule.look(step(loss), False) for loss in [3.0] * 20]
    assert not said[0] and "diverges" in said[-1]["loss"]


def test_a_drop_of_the_rate():
    clock = Clock()
    rule = rules.Slowing(clock)
    for _ in range(4):
        clock.now += 11
        assert rule.look(step(samples=1100), False) == {}
    clock.now += 60  # an epoch ends, and is validated
    assert rule.look(epoch(), True) is None
    clock.now += 11
    assert rule.look(step(samples=1100), False) == {}
    clock.now += 11
    assert rule.look(step(samples=300), False)["rate"] == "27 samples/s, after 100 before"


def test_a_rank_that_lags_twice_in_a_row():
    clock = Clock()
    rule = rules.Lagging(clock)
    late = [("a", 0.1), ("b", 0.4)]
    assert rule.look(step(loads=late), False) is None  # too soon
    clock.now = 3
    assert rule.look(step(), False) is None
    assert rule.look(step(loads=late), False) == {}
    clock.now = 6
    assert "rank 1 on b computes 400 ms" in rule.look(step(loads=late), False)["1"]


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system needs root")
def test_a_disk_that_fills(tmp_path):
    ran = subprocess.run(
        ["unshare", "-m", "sh", "-ec", 'mount -t tmpfs -o size=300m none "$0"; exec "$@"', tmp_path,
         sys.executable, "-c", f"""
from pathlib import Path
from hpcml.runs.rules import DiskFilling
folder, now = Path({str(tmp_path)!r}), [0.0]
rule = DiskFilling(folder, lambda: now[0])
assert rule.look({{}}, False) == {{}}
(folder / "big").write_bytes(bytes(250_000_000))
assert rule.look({{}}, False) is None  # not asked for so often
now[0] = 31.0
print(rule.look({{}}, False)["disk"])
"""],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    if "mount" in ran.stderr:
        pytest.skip(ran.stderr)
    assert re.search(r"has \d\d MB free of 315", ran.stdout), ran.stderr


def test_a_time_limit_that_is_near(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1000")
    clock = Clock()
    rule = rules.TimeRunningOut(rules.end_of_job(), clock)
    clock.now = 600.0
    assert rule.look(step(), False) is None
    clock.now = 800.0
    assert "200 s away" in rule.look(step(), False)["time"]
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert rules.TimeRunningOut(rules.end_of_job()).look(step(), False) is None


@pytest.fixture
def address():
    """Where somebody listens, and what was posted there."""
    heard = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if self.path == "/broken" else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", heard
    server.shutdown()
    server.server_close()


def test_an_alert_goes_to_all_and_is_said_once(tmp_path, address, capsys):
    url, heard = address
    kept = tmp_path / "it's kept"
    program = (
        f"""{sys.executable} -c 'import sys; open(sys.argv[1], "a").write(sys.stdin.read())' "{kept}" '$HOME;exit 1'"""
    )
    senders = [alerts.to_log, alerts.to_file(tmp_path / "alerts"), alerts.to_command(program)]
    senders += [alerts.to_webhook(f"{url}/broken"), alerts.to_webhook(url)]
    watch = alerts.Alerts("runs/x", [rules.NotFinite()], senders)
    for loss in (0.5, NAN, NAN, NAN, 0.5, NAN):
        watch.step(step(loss))
    watch.close()
    written = [json.loads(line) for line in (tmp_path / "alerts").read_text().splitlines()]
    assert [event["alert"] for event in written] == ["loss", "loss"] and watch.counts == {"loss": 2}
    assert written[0]["run"] == "runs/x" and written[0]["epoch"] == 1 and "nan" in written[0]["text"]
    assert kept.read_text().count('"alert": "loss"') == 2
    assert len(heard) == 4  # that one address fails keeps no other from being told
    err = capsys.readouterr().err
    assert err.count("hpcml: alert: the loss is nan") == 2 and err.count("could not be passed on: HTTP Error 500") == 2


def test_a_command_that_fails_is_told(capsys):
    watch = alerts.Alerts("x", [rules.NotFinite()], [alerts.to_command("false")])
    watch.step(step(NAN))
    watch.close()
    assert "false ended with status 1" in capsys.readouterr().err


SAMPLE = re.compile(r'^([a-z_]+)\{([a-z]+="(?:[^"\\]|\\.)*"(?:,[a-z]+="(?:[^"\\]|\\.)*")*)\} (\S+)$')


def samples(text):
    """Metrics of a text by name and labels; each line as the format has it, types before samples."""
    found, typed = {}, set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert kind in ("gauge", "counter") and name not in typed
            typed.add(name)
        elif not line.startswith("# HELP "):
            name, labels, value = SAMPLE.match(line).groups()
            assert name in typed
            found[name, labels] = float(value)
    assert text.endswith("\n")
    return found


def test_figures_for_prometheus():
    fields = {"state": "running", "epoch": 2, "loss": NAN, "ranks": 2, "loads": [("a", 0.1), ('b"\\', 0.2)]}
    found = samples(prometheus.exposition({**fields, "alerts": {"loss": 3}}, 'runs/"x"'))
    run = r'run="runs/\"x\""'
    assert found["hpcml_epoch", run] == 2 and found["hpcml_loss", run] != found["hpcml_loss", run]
    assert found["hpcml_rank_compute_seconds", rf'{run},rank="1",host="b\"\\"'] == 0.2
    assert found["hpcml_alerts_total", f'{run},kind="loss"'] == 3 and found["hpcml_running", run] == 1


@pytest.mark.parametrize(
    "text, found",
    [
        ("9300", (None, "127.0.0.1", 9300)),
        ("0.0.0.0:9300", (None, "0.0.0.0", 9300)),
        (":0", (None, "127.0.0.1", 0)),
        ("a/b.prom", ("a/b.prom", "127.0.0.1", 0)),
    ],
)
def test_where_figures_go(text, found):
    assert tuple(prometheus.target(text)) == found


@pytest.mark.parametrize("text", ["", "figures", "host:", "99999", "a.txt"])
def test_nowhere(text):
    with pytest.raises(ValueError, match="expected PORT, HOST:PORT or FILE.prom"):
        prometheus.target(text)


def test_figures_are_served_on_the_loopback_interface_alone():
    server = prometheus.Server(prometheus.target(":0"), lambda: "here\n")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
            assert answer.read() == b"here\n" and "version=0.0.4" in answer.headers["Content-Type"]
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/etc/passwd", timeout=10)
        with socket.socket() as other, pytest.raises(OSError):  # another address of this machine
            other.connect(("127.0.0.2", server.port))
        with pytest.raises(OSError):  # the port is taken
            prometheus.Server(prometheus.target(str(server.port)), lambda: "")
    finally:
        server.close()


def test_the_live_status(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "EVERY_SECONDS", 0.05)
    status, text = live.status_file(tmp_path), prometheus.text_file(tmp_path / "x.prom", "x")
    standing = live.Live(2, 4, [status, text])
    at = tmp_path / live.STATUS
    assert json.loads(at.read_text())["state"] == "running"
    standing.step(step(0.5))
    time.sleep(0.06)
    standing.step(step(0.4, number=5, loads=[("a", 0.1), ("b", 0.9)]))
    found = json.loads(at.read_text())
    assert (found["epoch"], found["step"], found["steps"], found["loss"]) == (1, 5, 10, 0.4)
    assert found["communication_share"] == pytest.approx(0.2)
    assert found["stragglers"] == [1] and found["steps_total"] == 2
    # 35 of 40 steps are left, at what two have taken
    assert 17.5 * 0.06 <= found["eta_seconds"] < 60
    standing.epoch(epoch(4, validation_accuracy=0.8, communication_seconds=0.1))
    standing.close(ValueError("no\nluck"))
    found = json.loads(at.read_text())
    assert found["state"] == "stopped" and found["error"] == "ValueError: no luck"
    assert found["validation_accuracy"] == 0.8 and "eta_seconds" not in found
    assert samples((tmp_path / "x.prom").read_text())["hpcml_running", 'run="x"'] == 0
    assert sorted(os.listdir(tmp_path)) == ["status.json", "x.prom"]  # nothing is left beside


def test_a_status_that_cannot_be_written_ends_nothing(tmp_path):
    standing = live.Live(1, None, [live.status_file(tmp_path / "absent")])
    standing.epoch(epoch())
    standing.close()


def test_files_have_the_users_umask(tmp_path):
    before = os.umask(0o027)
    try:
        live.replace_text(tmp_path / "x", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_a_board_has_the_figures(tmp_path):
    pytest.importorskip("tensorboardX")
    from hpcml.runs.tensorboard import Board

    board = Board(tmp_path)
    board.step(step())
    board.epoch(epoch(loads=[("a", 0.5)]))
    board.close()
    (events,) = tmp_path.iterdir()
    written = events.read_bytes()
    for tag in (b"step/loss", b"epoch/accuracy", b"rank/0/compute_seconds"):
        assert tag in written


def test_a_board_that_is_not_installed_is_told(tmp_path, monkeypatch):
    from hpcml.runs.tensorboard import Board

    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"hpcml\[tensorboard\]"):
        Board(tmp_path)
