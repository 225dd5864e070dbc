"""The benchmarks run, and their table and plot hold what was measured. Not how fast anything is."""
import os
import subprocess
import sys
import xml.dom.minidom

import pytest

from conftest import LIBRARY, ROOT


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="no tmpfs")
def test_a_short_run_fills_the_table(tmp_path):
    command = [sys.executable, f"{ROOT}/benches/run.py", "--library", LIBRARY, "--rounds", "1", "--seconds", "0.01",
               "--inside", "--out", tmp_path]
    subprocess.run(command, check=True, timeout=120)
    table = (tmp_path / "results.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    found = {row[0]: row for row in rows}
    for label in ("SELECT 1, one thread", "INSERT, one thread, disk", "100,000 rows to JSON"):
        library_us, floor_us, ratio = found[label][2], found[label][3], found[label][4]
        assert float(library_us.split()[0]) > 0 and float(floor_us.split()[0]) > 0
        assert 0.01 < float(ratio) < 20
    assert found["refused of them, tmpfs"][2] == "0"
    assert float(found["idle node: memory"][2].split()[0]) > 1
    assert "who=floor" in (tmp_path / "raw.txt").read_text()
    plot = xml.dom.minidom.parse(str(tmp_path / "results.svg"))
    assert len(plot.getElementsByTagName("circle")) >= 7
