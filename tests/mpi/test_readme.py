"""The Python in the README and the pages of docs runs as it stands there, on any number of ranks."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run_one_after_another(comm, page):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert blocks
    names = {"__name__": "page"}
    for number, block in enumerate(blocks):
        if "sklearn" in block:
            pytest.importorskip("sklearn")
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)
