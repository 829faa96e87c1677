"""Progress on a terminal (a bar) or in a log (a line per epoch)."""

from __future__ import annotations

import time
from typing import TextIO

REFRESH_SECONDS = 0.1


def choose_display(kind: str, epochs: int | None, stream: TextIO) -> Bar | Lines | None:
    """kind: "bar", "lines", "none", or "auto": a bar where the stream is a terminal and tqdm is installed.

    epochs: None where a solver ends by itself; then there are lines, for nobody knows how far it is to the end.
    """
    if kind == "none":
        return None
    if epochs is None:
        return Lines(None, stream)
    if kind == "bar" or (kind == "auto" and stream.isatty()):
        try:
            return Bar(epochs, stream)
        except ImportError:
            if kind == "bar":
                raise
    return Lines(epochs, stream)


class Bar:
    """One bar over the steps of all epochs, with loss, accuracy and samples per second."""

    def __init__(self, epochs: int, stream: TextIO) -> None:
        from tqdm import tqdm

        # Wide enough for the figures; no unit rate of tqdm's own, which would count steps.
        form = "{desc} {percentage:3.0f}% |{bar:20}| {elapsed} left {remaining}{postfix}"
        self.bar = tqdm(total=0, file=stream, bar_format=form, dynamic_ncols=True)
        self.epochs = epochs
        self.accuracy: float | None = None
        self.samples, self.shown_samples, self.shown_at = 0, 0, time.perf_counter()
        self.pending = 0

    def step(self, record: dict) -> None:
        self.pending += 1
        self.bar.total = record["steps"] * self.epochs
        self.samples += record["samples"]
        now = time.perf_counter()
        seconds = now - self.shown_at
        if seconds < REFRESH_SECONDS:
            return
        self._show(record, record["loss"], (self.samples - self.shown_samples) / seconds)
        self.shown_samples, self.shown_at = self.samples, now

    def epoch(self, record: dict) -> None:
        self.accuracy = record.get("validation_accuracy", record["accuracy"])
        self._show(record, record["loss"], record["samples_per_second"])

    def _show(self, record: dict, loss: float, rate: float) -> None:
        self.bar.update(self.pending)
        self.pending = 0
        self.bar.set_description_str(f"epoch {record['epoch']}/{self.epochs}", refresh=False)
        accuracy = "" if self.accuracy is None else f"  accuracy {self.accuracy:.4f}"
        self.bar.set_postfix_str(f"loss {loss:.4f}{accuracy}  {rate:,.0f} samples/s", refresh=True)

    def close(self) -> None:
        self.bar.close()


class Lines:
    """A line per epoch, flushed, as suits the output file of a batch job."""

    def __init__(self, epochs: int | None, stream: TextIO) -> None:
        self.epochs, self.stream = epochs, stream

    def step(self, record: dict) -> None:
        """Nothing: a log wants no line per step."""

    def epoch(self, record: dict) -> None:
        print(epoch_line(record, self.epochs), file=self.stream, flush=True)

    def close(self) -> None:
        """Nothing is left open."""


def epoch_line(record: dict, epochs: int | None) -> str:
    """``epoch  3/20  loss 0.2113  accuracy 0.9412  validation 0.2480 0.9333  48,120 samples/s  9%
    communication``; of a solver ``iteration  3  loss 0.2113  gap 4.1e-02  accuracy 0.9412 …``."""
    if epochs is None:
        text = f"iteration {record['epoch']:>3}  loss {record['loss']:.4f}"
        text += f"  gap {record['gap']:.1e}" if "gap" in record else ""
        text += f"  accuracy {record['accuracy']:.4f}" if "accuracy" in record else ""
    else:
        text = f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}"
        text += f"  loss {record['loss']:.4f}  accuracy {record['accuracy']:.4f}"
    if "validation_accuracy" in record:
        loss = f" loss {record['validation_loss']:.4f} " if "validation_loss" in record else ""
        text += f"  validation{loss} accuracy {record['validation_accuracy']:.4f}"
    text += f"  {record['samples_per_second']:,.0f} samples/s"
    if record["seconds"] > 0 and "communication_seconds" in record:
        text += f"  {record['communication_seconds'] / record['seconds']:.0%} communication"
    if record.get("hidden"):
        text += f", {record['hidden']:.0%} hidden"
    return text
