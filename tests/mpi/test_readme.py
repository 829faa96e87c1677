"""The Python in the README and the pages of docs runs as it stands there, on any number of ranks."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALL = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [page for page in ALL if "```python" in page.read_text()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run_one_after_another(comm, page):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert len(blocks) >= (3 if page.name == "README.md" else 1)
    names = {"__name__": "page"}
    for number, block in enumerate(blocks):
        for library in ("sklearn", "cupy"):
            if library in block:
                pytest.importorskip(library)
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)
