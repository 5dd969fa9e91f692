"""The lines of the GPU benchmark that need no CUDA run. What they take is not asked here."""

import json

import pytest

from tests.benchmarks import gpu


@pytest.mark.slow
def test_every_line_that_needs_no_gpu(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu", "--cpu", "--quick", "--out", str(tmp_path)])
    gpu.main()
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert len(found["rows"]) == 1 + len(gpu.OBJECTIVES) + 3 + 1 + 5
    assert not any("error" in row for row in found["rows"]) and found["study_hours"] > 0
    assert (tmp_path / "gpu.md").read_text() in capsys.readouterr().out
