"""compare: win rates against one checkpoint and paired differences, from reports."""

import json

import pytest

from r1pipe.errors import ConfigError, InputError


def report(known, folder, name, lines):
    folder.mkdir()
    known.write(folder / "rows.jsonl", [{"pass": None, "sample": 0, "tokens": 5, "response": "", **line} for line in lines])
    (folder / "scores.json").write_text(json.dumps({name: {}}))
    return folder


def test_paired_differences(known, run_stage, tmp_path):
    zero = [{"id": f"p{i}", "scores": {"math": float(i % 4 != 0), "reasoning": float(i % 4 != 0)}} for i in range(100)]
    base = [{"id": f"p{i}", "scores": {"math": float(i % 4 == 1), "reasoning": float(i % 4 == 1)}} for i in range(100)]
    reports = {"base": report(known, tmp_path / "b", "base", base), "zero": report(known, tmp_path / "z", "zero", zero)}
    metrics, out = run_stage("compare", {"differences": [["zero", "base"]]}, reports=reports)
    found = json.loads((out["report"] / "paired.json").read_text())
    assert [one["suite"] for one in found] == ["math", "reasoning"]
    assert found[0]["difference"] == 0.5 and 0.39 < found[0]["low"] < 0.5 < found[0]["high"] < 0.61 and found[0]["n"] == 100
    assert metrics["zero-base/math"] == 0.5 and metrics["zero-base/math/low"] == found[0]["low"]


def test_what_cannot_be_compared(known, run_stage, tmp_path):
    reports = {"base": report(known, tmp_path / "b", "other", [{"id": "p", "scores": {"math": 1.0}}])}
    with pytest.raises(ConfigError, match="no report of zero"):
        run_stage("compare", {"differences": [["zero", "base"]]}, reports=reports)
    (tmp_path / "out-report").rmdir()
    with pytest.raises(InputError, match="'base' holds the scores of other"):
        run_stage("compare", {"differences": [["base", "base"]]}, reports=reports)
