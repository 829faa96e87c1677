"""A schedule drawn in space and time: ranks across, rounds down, an arrow for each message.

A message that is folded into what its receiver holds ends in ⊕, one that is stored in a dot; a diamond on the line of a
rank is a `Finish`. An arrow bears the numbers of its blocks where there is room. A message to the right of the last
rank, in a round where everybody sends as far, leaves the picture and comes in again on the other side.
"""

from __future__ import annotations

from collections.abc import Sequence

from hpcml.collectives.algorithms import Algorithm
from hpcml.paper.messages import Message, Step, steps

LARGEST = 64  # ranks; above, lines run into each other
LABELLED = 16  # ranks up to which block numbers can be read
SHOWN = 22  # rounds of one message each; of more the first and the last are shown
FOLD, STORE, LINE, INK = "#c2410c", "#1d5fbf", "#c9ced6", "#1f2933"


def shown(found: Sequence[Step]) -> tuple[list[Step], list[Step]]:
    """What is drawn above and below the gap; nothing is below where all fit."""
    lanes = max((step.lanes for step in found), default=1)
    room = max(9, SHOWN * 2 // (1 + lanes))
    if len(found) <= room:
        return list(found), []
    last = room // 4
    return list(found[: room - last]), list(found[-last:])


def draw(algorithm: Algorithm, size: int, path: str, root: int = 0, segments: int = 1) -> list[Step]:
    """Draw one row of the catalogue to ``path`` (SVG, PNG, PDF by its suffix); return the rounds that were left out.

    Raises ValueError above `LARGEST` ranks.
    """
    if size > LARGEST:
        raise ValueError(f"found {size} ranks, expected at most {LARGEST}: more cannot be told apart on a picture")
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = steps(algorithm, size, root, segments)
    above, below = shown(found)
    picture = _Picture(size, above, below, len(found))
    figure = plt.figure(figsize=(picture.width, picture.height))
    axes = figure.add_axes((0, 0, 1, 1))
    picture.onto(axes, *_titles(algorithm, size, root, segments, len(found)))
    dates = {"Date": None} if path.lower().endswith(".svg") else None  # the same picture is the same file
    with matplotlib.rc_context({"svg.hashsalt": "hpcml"}):
        figure.savefig(path, dpi=150, facecolor="white", metadata=dates)
    plt.close(figure)
    return list(found[len(above) : len(found) - len(below)])


def _titles(algorithm: Algorithm, size: int, root: int, segments: int, rounds: int) -> tuple[str, str]:
    name = algorithm.name.replace("_", " ")
    title = f"{algorithm.collective.replace('_', '-')}  ·  {name}"
    blocks = algorithm.blocks(size, segments)
    parts = [f"{size} rank{'s' * (size != 1)}", f"{rounds} round{'s' * (rounds != 1)}"]
    if root:
        parts.append(f"root {root}")
    if segments > 1 and algorithm.segmented:
        parts.append(f"{segments} segments")
    parts.append(f"{blocks} block{'s' * (blocks != 1)}")
    if blocks and algorithm.collective != "barrier":
        of_one_rank = blocks // size if algorithm.collective == "alltoall" else blocks
        parts.append(f"at most {algorithm.volume(size, segments) / of_one_rank:.3g} n bytes through a rank, one way")
    return title, "  ·  ".join(parts)


class _Picture:
    """Where everything is, in inches from the upper left corner."""

    column, head, foot, left, right = 0.82, 1.42, 0.72, 0.95, 0.6
    band, lane, gap = 0.78, 0.30, 0.62

    def __init__(self, size: int, above: list[Step], below: list[Step], rounds: int):
        self.size, self.above, self.below, self.rounds = size, above, below, rounds
        if size > LABELLED:
            self.column = 0.36
        self.width = max(self.left + (size - 1) * self.column + self.right, 6.4)
        self.indent = (self.width - (size - 1) * self.column + self.left - self.right) / 2
        self.top: dict[int, float] = {}
        y = self.head
        for step in above:
            self.top[step.number] = y
            y += self._tall(step)
        self.torn = y
        y += self.gap if below else 0
        for step in below:
            self.top[step.number] = y
            y += self._tall(step)
        self.bottom = y
        self.height = y + self.foot

    def _tall(self, step: Step) -> float:
        farthest = max((abs(m.dest - m.source) for m in step.messages if not m.wraps), default=1)
        return self.band + self.lane * (step.lanes - 1) + 0.045 * min(farthest, 12)

    def x(self, rank: float) -> float:
        return self.indent + rank * self.column

    def onto(self, axes, title: str, subtitle: str) -> None:
        axes.set_xlim(0, self.width)
        axes.set_ylim(self.height, 0)
        axes.axis("off")
        axes.text(0.35, 0.38, title, fontsize=15, fontweight="bold", color=INK, va="center")
        axes.text(0.35, 0.68, subtitle, fontsize=9.5, color="#52606d", va="center")
        self._lines(axes)
        for at, step in enumerate([*self.above, *self.below]):
            self._band(axes, step, at % 2 == 0)
            for message in step.messages:
                self._arrow(axes, message, step)
            for rank in step.finished:
                axes.plot(self.x(rank), self._end(step), marker="D", ms=5, mfc="white", mec=INK, mew=1, zorder=6)
        self._legend(axes)

    def _lines(self, axes) -> None:
        for rank in range(self.size):
            for begin, end in ((self.head, self.torn), (self.torn + self.gap * bool(self.below), self.bottom)):
                axes.plot([self.x(rank)] * 2, [begin, end], color=LINE, lw=1.1, zorder=2, solid_capstyle="butt")
            if self.size <= LABELLED or rank % 4 == 0:
                axes.plot(self.x(rank), self.head - 0.27, marker="o", ms=16, color=INK, zorder=5)
                text = {"fontsize": 8.5, "color": "white", "ha": "center", "va": "center_baseline", "zorder": 6}
                axes.text(self.x(rank), self.head - 0.27, str(rank), **text)
        axes.text(self.indent - 0.42, self.head - 0.27, "rank", fontsize=9, color="#52606d", ha="right", va="center")
        if self.below:
            left_out = self.rounds - len(self.above) - len(self.below)
            axes.text(
                self.x((self.size - 1) / 2),
                self.torn + self.gap / 2,
                f"⋮   {left_out} round{'s' * (left_out != 1)} left out   ⋮",
                fontsize=10,
                color="#52606d",
                ha="center",
                va="center",
            )

    def _band(self, axes, step: Step, shaded: bool) -> None:
        import matplotlib.patches as patches

        top, left = self.top[step.number], self.indent - 0.36
        width = (self.size - 1) * self.column + 0.72
        if shaded:
            axes.add_patch(patches.Rectangle((left, top), width, self._tall(step), fc="#f4f6f8", ec="none", zorder=1))
        axes.text(
            left - 0.2,
            top + self._tall(step) / 2,
            str(step.number),
            fontsize=9,
            color="#52606d",
            ha="right",
            va="center",
        )

    def _end(self, step: Step) -> float:
        return self.top[step.number] + self._tall(step) - 0.06

    def _arrow(self, axes, message: Message, step: Step) -> None:
        color = FOLD if message.folds else STORE
        begin = self.top[step.number] + 0.12 + message.lane * self.lane
        end = begin + self._tall(step) - 0.36 - self.lane * (step.lanes - 1)
        x0, x1 = self.x(message.source), self.x(message.dest)
        if message.wraps:
            # As far as it goes beyond the last rank, cut in two where it leaves the picture.
            way = self.size if message.source > message.dest else -self.size
            out, edges = self.x(message.dest + way), (self.x(-0.5), self.x(self.size - 0.5))
            leave, enter = (edges[1], edges[0]) if way > 0 else edges
            cut = (leave - x0) / (out - x0)
            halfway = begin + cut * (end - begin)
            self._segment(axes, (x0, begin), (leave, halfway), color, head=False)
            self._segment(axes, (enter, halfway), (x1, end), color, head=True)
            label_to = out, end
        else:
            self._segment(axes, (x0, begin), (x1, end), color, head=True)
            label_to = x1, end
        axes.plot(x1, end, marker="o", ms=7 if message.folds else 4.5, mfc="white" if message.folds else color,
                  mec=color, mew=1.1, zorder=6)  # fmt: skip
        if message.folds:
            axes.plot(x1, end, marker="+", ms=5, mec=color, mew=1.1, zorder=7)
        if message.blocks and self.size <= LABELLED:
            columns = 0.28 if message.wraps or step.crosses else 0.42
            self._label(axes, message.blocks, (x0, begin), label_to, color, columns)

    def _segment(self, axes, start, end, color: str, head: bool) -> None:
        arrow = {
            "arrowstyle": "-|>,head_width=0.16,head_length=0.36" if head else "-",
            "color": color,
            "lw": 1.25 if self.size <= LABELLED else 0.8,
            "shrinkA": 0,
            "shrinkB": 3.5 if head else 0,
        }
        axes.annotate("", xy=end, xytext=start, arrowprops=arrow, zorder=4)

    def _label(self, axes, text: str, start, end, color: str, columns: float) -> None:
        """The numbers sit on the arrow, near the sender, where arrows from different ranks are still apart."""
        run, rise = end[0] - start[0], end[1] - start[1]
        along = columns * self.column / max(abs(run), 1e-9)
        axes.text(
            start[0] + along * run,
            start[1] + along * rise,
            text,
            fontsize=7.5 if len(text) < 6 else 6.5,
            color=color,
            ha="center",
            va="center",
            zorder=5,
            bbox={"boxstyle": "round,pad=0.12", "fc": "white", "ec": "none", "alpha": 0.92},
        )

    def _legend(self, axes) -> None:
        y, x = self.height - 0.34, self.left - 0.45
        drawn = [*self.above, *self.below]
        entries = [("folded", FOLD, True), ("stored", STORE, False)]
        present = {m.folds for step in drawn for m in step.messages}
        for text, color, folds in entries:
            if folds not in present:
                continue
            self._segment(axes, (x, y), (x + 0.5, y), color, head=True)
            axes.plot(
                x + 0.5, y, marker="o", ms=7 if folds else 4.5, mfc="white" if folds else color, mec=color, mew=1.1
            )
            if folds:
                axes.plot(x + 0.5, y, marker="+", ms=5, mec=color, mew=1.1, zorder=7)
            axes.text(x + 0.64, y, text, fontsize=9, color=INK, va="center")
            x += 1.45
        if any(step.finished for step in drawn):
            axes.plot(x, y, marker="D", ms=5, mfc="white", mec=INK, mew=1)
            axes.text(x + 0.14, y, "reduced in full", fontsize=9, color=INK, va="center")
            x += 1.3
        if self.size <= LABELLED and any(m.blocks for step in drawn for m in step.messages):
            axes.text(x + 0.1, y, "numbers: blocks", fontsize=9, color="#52606d", va="center")
