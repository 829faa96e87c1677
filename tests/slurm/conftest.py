import tempfile
from pathlib import Path

import pytest
from cluster import ROOT


@pytest.fixture
def folder():
    """A folder that the nodes see: /tmp may be each node's own."""
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".slurm-test-", ignore_cleanup_errors=True) as path:
        yield Path(path)
