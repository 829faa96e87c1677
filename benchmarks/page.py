"""Write benchmarks/results/README.md, the page that reads the results, from the .json files in that folder.

.venv-openmpi/bin/python benchmarks/page.py
"""

from __future__ import annotations

from pathlib import Path

from hpcml.bench.page import markdown

RESULTS = Path(__file__).resolve().parent / "results"

if __name__ == "__main__":
    (RESULTS / "README.md").write_text(markdown(RESULTS))
