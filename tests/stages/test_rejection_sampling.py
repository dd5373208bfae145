"""rejection-sampling: several responses a prompt, the right and readable ones kept."""

import json

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "n": 8, "max_tokens": 40}


def test_at_most_m_different_right_responses_a_prompt(known, run_stage, taught_checkpoint, tmp_path):
    prompts = known.write(tmp_path / "p.jsonl", known.rows())
    config = {"sampling": SAMPLING, "per_prompt": 2, "prefer": "shortest"}
    metrics, out = run_stage("rejection-sampling", config, model=taught_checkpoint, prompts=prompts)
    rows, dropped = known.read(out["chats"] / "rows.jsonl"), known.read(out["chats"] / "dropped.jsonl")
    gold = {row["id"]: row["answer"] for row in known.rows()}
    for row in rows:
        assert (
            f"\\boxed{{{gold[row['id'].split('#')[0]]}}}" in row["messages"][1]["content"]
            and row["source"] == "sampled"
        )
    assert len({row["messages"][1]["content"] + row["id"].split("#")[0] for row in rows}) == len(rows)
    reasons = {row["reason"] for row in dropped}
    assert {"wrong answer", "duplicate"} <= reasons
    card = json.loads((out["chats"] / "card.json").read_text())
    assert set(card["pass_rates"]) == set(gold)
    wrong, cut = (sum(row["reason"] == reason for row in dropped) for reason in ("wrong answer", "cut off"))
    assert (
        96 - wrong - cut <= round(metrics["pass_rate"] * 96) <= 96 - wrong
    )  # a right answer may be cut off behind it
    assert 0.1 < metrics["pass_rate"] < 0.9


def test_a_killed_stage_goes_on_with_the_same_samples(known, run_stage, taught_checkpoint, tmp_path, here):
    prompts = known.write(tmp_path / "p.jsonl", known.rows())
    config = {"sampling": {**SAMPLING, "batch_size": 8}}
    run_stage("rejection-sampling", config, model=taught_checkpoint, prompts=prompts)
    first = (tmp_path / "out-chats" / "rows.jsonl").read_text()
    for label, whole in ("samples", 5), ("samples-verdicts", 3):
        part = here.workdir / f"{label}-0-of-1.jsonl"
        lines = part.read_bytes().splitlines(keepends=True)
        part.write_bytes(b"".join(lines[:whole]) + lines[whole][:20])
    (tmp_path / "out-chats").rename(tmp_path / "first")
    run_stage("rejection-sampling", config, model=taught_checkpoint, prompts=prompts)
    assert (tmp_path / "out-chats" / "rows.jsonl").read_text() == first


def test_two_ranks_give_what_one_gives(known, run_stage, taught_checkpoint, tmp_path, here):
    import time
    from concurrent.futures import ThreadPoolExecutor
    from dataclasses import replace

    from r1pipe.artifacts import Chats, Checkpoint, Prompts
    from r1pipe.config.registry import load_kind

    prompts = known.write(tmp_path / "p.jsonl", known.rows())
    config = {"sampling": {**SAMPLING, "batch_size": 16}}
    run_stage("rejection-sampling", config, model=taught_checkpoint, prompts=prompts)
    stage, out = load_kind("rejection-sampling"), tmp_path / "two"
    out.mkdir()
    first, second = [
        replace(here, workdir=tmp_path / "workdir2", rank=rank, world_size=2) for rank in range(2)
    ]
    first.workdir.mkdir()

    def run(rank):
        inputs = stage.Inputs(model=Checkpoint(taught_checkpoint), prompts=Prompts(prompts))
        return stage.run(stage.Config(**config), inputs, stage.Outputs(chats=Chats(out)), rank)

    with ThreadPoolExecutor(
        1
    ) as pool:  # the ranks meet in workdir only; one after the other, since threads share torch's generator
        waiting = pool.submit(run, second)
        part = first.workdir / "samples-1-of-2.jsonl"
        while not part.exists() or len(part.read_bytes().splitlines()) < 3:
            assert not waiting.done(), waiting.result()
            time.sleep(0.05)
        assert run(first)["kept"] > 0
        assert waiting.result() == {}
    assert (out / "rows.jsonl").read_text() == (tmp_path / "out-chats" / "rows.jsonl").read_text()
