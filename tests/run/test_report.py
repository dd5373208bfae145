"""The report of a run: what it collects, and the page in a browser, where model's text is text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from browser import EVIL, IN_A_BROWSER, WITH_AXE, browser
from engine import ROOT, config, r1pipe

from r1pipe.config.loader import load
from r1pipe.run.records import sealed
from r1pipe.run.report.collect import collect
from r1pipe.run.report.curves import curves, thinned
from r1pipe.run.report.departures import departures
from r1pipe.run.report.figure import draw
from r1pipe.run.report.samples import samples
from r1pipe.run.report.write import LiveReport, write_report
from r1pipe.run.store import RunFolder, write_json

DOMAINS = ("math", "logic")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def sample(number: int, checkpoint: str) -> dict[str, Any]:
    """A line of a report: r1 is right where base was wrong, except for each fifth problem."""
    domain = DOMAINS[number % 2]
    right = float((number % 5 == 0) == (checkpoint == "base"))
    return {
        "pass": None,
        "id": f"p{number}",
        "domain": domain,
        "sample": 0,
        "scores": {domain: right, "reasoning": right},
        "tokens": 7,
        "finished": True,
        "response": f"<think>{EVIL}</think>{checkpoint} says {number}",
    }


def done(folder: RunFolder, stage: str, **outputs: tuple[str, str]) -> None:
    """Publish a stage whose outputs are {port: (type, name)}."""
    written = {
        port: {"type": kind, "name": name, "path": f"out/{port}", "digest": "", "files": {}}
        for port, (kind, name) in outputs.items()
    }
    manifest = {"stage": stage, "outputs": written, "wall_s": 3.0, "metrics": {}, "versions": {"torch": "2"}}
    folder.stage(stage).path.mkdir(parents=True, exist_ok=True)
    write_json(folder.stage(stage).manifest_json, sealed(manifest))


STAGES: dict[str, dict[str, Any]] = {
    "exam": {"kind": "prompts", "outputs": {"prompts": "exam"}},
    "r1-zero": {"inputs": {"model": "./base", "prompts": "exam"}, "outputs": {"checkpoint": "r1"}},
    "more": {"kind": "second-sft", "inputs": {"model": "r1"}, "outputs": {"checkpoint": "dev"}},
} | {
    f"evaluate-{name}": {
        "kind": "evaluate",
        "checkpoint": name,
        "inputs": {"model": model, "prompts": {"exam": "exam"}},
        "outputs": {"report": f"scores-{name}"},
    }
    for name, model in (("base", "./base"), ("r1", "r1"))
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run of an RL stage of 5,000 steps, two evaluations of 300 problems, and a stage that has not run."""
    folder = RunFolder("mine", tmp_path / "runs")
    folder.path.mkdir(parents=True)
    write_json(folder.path / "config.json", {"stages": STAGES})
    scores: dict[str, Any] = {}
    done(folder, "exam", prompts=("prompts", "exam"))
    rows = [{"id": f"p{n}", "prompt": f"{EVIL} {n}?", "answer": str(n)} for n in range(300)]
    write_lines(folder.stage("exam").path / "out/prompts/rows.jsonl", rows)
    card = {"rows": 300, "domains": {"math": 300}, "sources": {"x": {"kept": 300, "wrong answer": 7}}}
    write_json(folder.stage("exam").path / "out/prompts/card.json", card)
    done(folder, "r1-zero", checkpoint=("checkpoint", "r1"))
    steps = [
        {
            "step": n,
            "loss": 1 / (n + 1),
            "kl": 0.1,
            "right": n / 5000,
            "rewards/format/mean": 1,
            "reflection_words": n / 1000,
            "phase": n // 2500,
        }
        for n in range(5000)
    ]
    steps.append({"step": 9, "guard": "kl", "what": "it is high", "action": "warn"})
    write_lines(folder.stage("r1-zero").metrics, steps)
    said = {"prompt": EVIL, "response": f"<think>{EVIL}</think>", "reward": 1.0, "rewards": {"accuracy": 1.0}}
    # An attempt that went on from update 100 has written the responses behind it again.
    shown = [{"step": n, "responses": [said] * 4} for n in [*range(0, 500, 50), *range(100, 500, 50)]]
    write_lines(
        folder.stage("r1-zero").path / "responses.jsonl",
        [*shown, {"step": 500}, {"step": 550, "responses": ["x"]}],
    )
    for name in ("base", "r1"):
        done(folder, f"evaluate-{name}", report=("report", f"scores-{name}"))
        report = folder.stage(f"evaluate-{name}").path / "out/report"
        write_lines(report / "rows.jsonl", [sample(number, name) for number in range(300)])
        scores[name] = {
            "reasoning": {"pass@1": 0.2 if name == "base" else 0.8, "stderr": 0.02, "tokens": 7.0},
            # As of a suite with one problem: no browser reads NaN.
            "code": {"pass@1": 1.0, "stderr": float("nan")},
        }
        write_json(report / "scores.json", {name: scores[name]})
    gate = {"gate": "reasoning >= base + 2 stderr", "met": False, "said": EVIL}
    gated = [{"name": "evaluate-r1", "gates": [gate, gate | {"met": None}]}]
    write_json(folder.path / "summary.json", {"scores": scores, "device": "a machine", "stages": gated})
    return folder


def test_the_figure_stands_in_rows() -> None:
    """Prompts and evaluations have no box; what is given stands right above its first reader."""
    stages = {name: dict(block) for name, block in STAGES.items()}
    stages["more"]["inputs"] = {"model": "r1", "chats": "./rows"}
    figure = draw(stages)
    levels = {box["name"]: box["level"] for box in figure["boxes"]}
    assert levels == {"./base": 0, "r1-zero": 1, "more": 2, "./rows": 1}
    assert figure["arrows"] == [["./base", "r1-zero"], ["r1-zero", "more"], ["./rows", "more"]]


def test_of_many_points_the_extremes_stay() -> None:
    points = [(float(step), 0.0) for step in range(5000)]
    points[1234] = (1234.0, 9.0)
    kept = thinned(points, most=100)
    assert len(kept) <= 100 and [1234.0, 9.0] in kept


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2}\n{"step": 2, "loss": NaN}\n[]\n{"step": 3, "lo')
    assert curves(path)["panels"] == [{"title": "loss", "series": [{"name": "loss", "points": [[1, 2.0]]}]}]
    assert curves(tmp_path / "none")["panels"] == []


def test_samples_stand_side_by_side(folder: RunFolder) -> None:
    found = samples(STAGES, folder)
    assert found["checkpoints"] == ["base", "r1"] and found["total"] == 600
    assert {problem["domain"] for problem in found["problems"]} == set(DOMAINS)
    for problem in found["problems"]:
        number = int(problem["id"][1:])
        assert problem["prompt"].endswith(f" {number}?") and problem["answer"] == str(number)
        right = {name: reply["right"] for name, reply in problem["replies"].items()}
        assert right == {"base": number % 5 == 0, "r1": number % 5 != 0}


def test_responses_stand_from_the_first_update_to_the_last(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.path.parent.parent)
    stages = {stage["name"]: stage for stage in collect(folder)["stages"]}
    shown = stages["r1-zero"]["responses"]
    steps = [one["step"] for one in shown]
    assert steps == sorted(steps) and len(steps) == 2 * len(set(steps)) == 10
    assert steps[0] == 0 and steps[-1] == 400
    assert shown[0] == {
        "step": 0,
        "prompt": EVIL,
        "response": f"<think>{EVIL}</think>",
        "rewards": {"accuracy": 1.0},
    }
    assert stages["more"]["responses"] == []


def test_all_samples_are_in_a_table(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow.parquet import read_table

    monkeypatch.chdir(folder.path.parent.parent)
    write_report(RunFolder("mine"))
    file = folder.path / "samples.parquet"
    assert not file.exists()
    write_report(RunFolder("mine"), all_samples=True)
    rows = read_table(file).to_pylist()
    assert len(rows) == 600 and sum(row["right"] for row in rows) == 60 + 240
    assert rows[300]["checkpoint"] == "r1" and rows[300]["response"].endswith("r1 says 0")
    before = file.stat().st_ino
    write_report(RunFolder("mine"), all_samples=True)
    assert file.stat().st_ino == before, "it is not written twice"


def test_departures_are_fields_that_cite_the_paper() -> None:
    found = {row["field"]: row for row in departures(load(ROOT / "configs" / "r1.yaml"))}
    rate = found["grpo.num_generations"]
    assert (rate["value"], rate["default"], rate["source"]) == (8, 16, "v2 2.1")
    assert "r1-zero" in rate["stages"] and "grpo.stop" not in found


def test_every_run_has_its_report(tmp_path: Path) -> None:
    """After each stage, in a run that goes on for all that may be wrong with it."""
    config(tmp_path)
    ran = r1pipe(tmp_path, "run-all", "t.yaml", "--until", "more")
    run = tmp_path / "runs" / "t"
    assert ran.returncode == 0 and f"in a browser: {run / 'report.html'}" in ran.stdout
    assert json.loads((run / "report.json").read_text())["run"] == "t"
    (run / "report.json").unlink()
    (run / "report.json").mkdir()
    ran = r1pipe(tmp_path, "run-all", "t.yaml")
    assert ran.returncode == 0 and "the report was not written" in ran.stdout + ran.stderr
    (run / "report.json").rmdir()
    shown = r1pipe(tmp_path, "report", "--json")
    assert shown.returncode == 0 and json.loads(shown.stdout)["running"] is False
    assert [stage["state"] for stage in json.loads(shown.stdout)["stages"]] == ["done"] * 3
    assert "| score |" in (run / "report.md").read_text()
    assert "t.yaml:3" in json.dumps(json.loads((run / "report.json").read_text())["config"])


def test_a_run_that_is_under_way_can_be_watched(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page a minute, not one a beat; the last one when the lock is free again."""
    monkeypatch.chdir(folder.path.parent.parent)
    written: list[bool] = []

    def look() -> None:
        written.append(json.loads((folder.path / "report.json").read_text())["running"])
        (folder.path / "report.json").unlink()

    with LiveReport(RunFolder("mine"), print) as live, RunFolder("mine"):
        live.beat()
        look()
        live.beat()
        assert not (folder.path / "report.json").exists()
        monkeypatch.setattr("r1pipe.run.report.write.EVERY_S", -1.0)
        live.beat()
        look()
    look()
    assert written == [True, True, False]


def test_what_a_run_cost(folder: RunFolder) -> None:
    """Of the stages that held GPUs; r1-zero took 3 s on four of them."""
    record = json.loads(folder.stage("r1-zero").manifest_json.read_text())
    record |= {"gpu": {"busy": 0.5}, "launched": {"world_size": 4}}
    write_json(folder.stage("r1-zero").manifest_json, sealed(record))
    where = folder.path.parent.parent
    assert json.loads(r1pipe(where, "report", "mine", "--json").stdout)["cost"] is None
    shown = r1pipe(where, "report", "mine", "--json", "--price", "3600")
    assert json.loads(shown.stdout)["cost"] == {"price": 3600.0, "gpu_hours": 0.003, "money": 12.0}
    # It stays for later reports.
    assert r1pipe(where, "report", "mine").returncode == 0
    assert "0.0 GPU hours, 12.00 of money at 3600 an hour." in (folder.path / "report.md").read_text()


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    assert r1pipe(tmp_path, "report", "none").returncode == 2


def test_the_page_asks_nobody_and_holds_no_markup_of_a_model(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.path.parent.parent)
    page = write_report(RunFolder("mine")).read_text(encoding="utf8")
    assert page.count("</script>") == 2 and "<img" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    assert len(page) < 2_000_000


@pytest.mark.slow
@IN_A_BROWSER
def test_the_page_in_a_browser(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.path.parent.parent)
    write_json(folder.path / "price.json", {"price": 2.0})
    page = write_report(RunFolder("mine"))
    with browser(offline=True, viewport={"width": 390, "height": 844}) as seen:
        tab = seen.tab
        tab.goto(page.as_uri())
        tab.wait_for_selector("h1")

        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        assert tab.locator("#figure .box").count() == 3
        assert tab.locator("#page > p").all_inner_texts()[1:] == ["0 GPU hours, 0.00 of money at 2 an hour"]
        assert tab.locator("#page").evaluate(
            "page => [...page.childNodes].every((node) => node.nodeType === 1)"
        )
        assert "20.0 ± 2.0" in tab.inner_text("#scores")
        assert tab.locator("#stage-r1-zero polyline").count() == 5
        assert "reflection words per 1,000 tokens" in tab.inner_text("#stage-r1-zero")
        tab.locator("#stage-r1-zero summary", has_text="responses").click()
        assert f"after 0 updates accuracy 1\n{EVIL}" in tab.inner_text("#stage-r1-zero").replace("\n\n", "\n")
        assert "it is high" in tab.inner_text("#guards")
        assert f"reasoning >= base + 2 stderr not met {EVIL}" in tab.inner_text("#stage-evaluate-r1")
        assert tab.locator("#gates tbody tr").count() == 2
        assert "wrong answer 7" in tab.inner_text("#data")
        tab.select_option("#sample-verdict", "lost")
        assert tab.inner_text("#sample-count").startswith("60 problems of 300")
        assert EVIL in tab.locator(".problem").first.inner_text()
        tab.locator(".problem summary").first.click()
        assert tab.locator(".problem .said").first.inner_text() == EVIL
        assert tab.title() == "r1pipe: mine"
        tab.fill("#sample-find", "says 42")
        tab.select_option("#sample-verdict", "all")
        assert tab.inner_text("#sample-count").startswith("1 problems")
    assert seen.troubles == []
    assert seen.requests == [page.as_uri()]


@IN_A_BROWSER
@pytest.mark.slow
@WITH_AXE
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_has_no_barriers(scheme: Any, folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.path.parent.parent)
    page = write_report(RunFolder("mine"))
    with browser(bypass_csp=True, color_scheme=scheme) as seen:
        seen.tab.goto(page.as_uri())
        seen.tab.wait_for_selector("h1")
        assert seen.barriers() == []
