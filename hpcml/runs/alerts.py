"""What somebody should know of a run while it goes on: said in its log, and to a command or a web address."""

from __future__ import annotations

import json
import queue
import shlex
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hpcml.runs.rules import Rule

SEND_SECONDS = 30  # that a command or an address may take
Event = dict[str, Any]


class Alerts:
    """Follows a run on rank 0: asks the rules, and sends what is new. A thing that stays wrong is said once.

    counts: how many alerts of each kind there were.
    """

    def __init__(self, run: str, rules: Sequence[Rule], senders: Sequence[Callable[[Event], None]]) -> None:
        self._run, self._rules, self._senders = run, list(rules), list(senders)
        self._wrong: dict[str, set[str]] = {rule.kind: set() for rule in rules}
        self.counts: Counter[str] = Counter()
        self._queue: queue.Queue[Event | None] = queue.Queue()
        self._thread = threading.Thread(target=self._send, name="hpcml alerts", daemon=True)
        self._thread.start()

    def step(self, record: dict) -> None:
        self._ask(record, ended=False)

    def epoch(self, record: dict) -> None:
        self._ask(record, ended=True)

    def close(self, error: BaseException | None = None) -> None:
        self._queue.put(None)
        self._thread.join(SEND_SECONDS)

    def _ask(self, record: dict, ended: bool) -> None:
        for rule in self._rules:
            wrong = rule.look(record, ended)
            if wrong is None:  # nothing new
                continue
            known = self._wrong[rule.kind]
            for key, text in wrong.items():
                if key not in known:
                    self.counts[rule.kind] += 1
                    self._queue.put(self._event(rule.kind, text, record))
            self._wrong[rule.kind] = set(wrong)

    def _event(self, kind: str, text: str, record: dict) -> Event:
        when = {"epoch": record["epoch"], "step": record.get("step"), "loss": record.get("loss")}
        return {"alert": kind, "text": text, "run": self._run, "time": time.time(), **when}

    def _send(self) -> None:
        while (event := self._queue.get()) is not None:
            for sender in self._senders:
                try:
                    sender(event)
                except Exception as caught:  # that nobody could be told must not end the training
                    print(f"hpcml: an alert could not be passed on: {caught}", file=sys.stderr, flush=True)


def to_log(event: Event) -> None:
    print(f"hpcml: alert: {event['text']}", file=sys.stderr, flush=True)


def to_file(path: Path) -> Callable[[Event], None]:
    """A line of JSON for each."""

    def send(event: Event) -> None:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    return send


def to_command(command: str) -> Callable[[Event], None]:
    """Runs the words of ``command``, without a shell, with the event as JSON on stdin."""
    words = shlex.split(command)

    def send(event: Event) -> None:
        ran = subprocess.run(words, input=json.dumps(event), text=True, timeout=SEND_SECONDS, stdout=subprocess.DEVNULL)
        if ran.returncode:
            raise RuntimeError(f"{words[0]} ended with status {ran.returncode}")

    return send


def to_webhook(url: str) -> Callable[[Event], None]:
    """Posts the event as JSON."""

    def send(event: Event) -> None:
        request = urllib.request.Request(
            url, json.dumps(event).encode(), {"Content-Type": "application/json", "User-Agent": "hpcml"}
        )
        with urllib.request.urlopen(request, timeout=SEND_SECONDS):
            pass

    return send
