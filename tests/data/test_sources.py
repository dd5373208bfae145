"""Sources: a user's files become rows in our columns, split by content, and their unreadable answers are counted."""

import gzip
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from r1pipe.artifacts import Chats, Labels, Pairs, Prompts
from r1pipe.data.sources import Source, load
from r1pipe.errors import InputError
from r1pipe.text.splits import content_key, split_of

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
shared = pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data is not here")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def problems(path, count=200):
    return write(
        path, [{"id": f"p{i}", "question": f"What is {i} + 1?", "gold": str(i + 1)} for i in range(count)]
    )


def source(path, **values):
    return Source(path=path, columns={"prompt": "question", "answer": "gold"}, domain="math", **values)


def test_columns_and_defaults(tmp_path):
    (row, *_) = load([source(problems(tmp_path / "a.jsonl"), language="en")], Prompts, seed=0).rows
    assert row["domain"] == "math"
    assert row["language"] == "en"
    assert row["answer"] == str(int(row["id"][1:]) + 1)
    assert "question" not in row


def test_splits_are_disjoint_and_stay_when_the_file_changes(tmp_path):
    path = problems(tmp_path / "a.jsonl")
    shares = {"dev": 0.2, "heldout": 0.2}
    found = {
        split: {row["id"] for row in load([source(path, shares=shares, split=split)], Prompts, seed=0).rows}
        for split in ("train", "dev", "heldout")
    }
    assert sum(map(len, found.values())) == 200 == len(set().union(*found.values()))
    assert 20 <= len(found["dev"]) <= 60
    fewer = write(
        tmp_path / "b.jsonl", [json.loads(line) for line in reversed(path.read_text().splitlines()[:100])]
    )
    again = {row["id"] for row in load([source(fewer, shares=shares, split="dev")], Prompts, seed=0).rows}
    assert again <= found["dev"]


def test_the_split_ignores_case_spaces_and_width():
    assert content_key("What  is 2+2？") == content_key("what is 2+2?")
    assert split_of("anything", {}) == "train"


def test_count_draws_by_the_seed(tmp_path):
    path = problems(tmp_path / "a.jsonl")
    first, same, other = (load([source(path, count=10)], Prompts, seed=seed).rows for seed in (0, 0, 1))
    assert len(first) == 10
    assert first == same
    assert first != other


def test_too_few_rows_warn(tmp_path):
    with pytest.warns(UserWarning, match="200 rows, fewer than the `count` of 300"):
        load([source(problems(tmp_path / "a.jsonl"), count=300)], Prompts, seed=0)


def test_unreadable_answers_are_skipped_with_a_warning_and_refused_when_many(tmp_path):
    rows = [
        {"id": f"p{i}", "question": f"{i}?", "gold": "\\frac{1}{" if i < 4 else str(i)} for i in range(100)
    ]
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.warns(UserWarning, match="4 of 100 rows skipped"):
        loaded = load([source(path)], Prompts, seed=0)
    assert len(loaded.rows) == 96
    assert loaded.reasons == {"the answer cannot be read": 4}
    with pytest.raises(
        InputError, match="4 of 100 rows have an answer that cannot be read; 3% may"
    ) as caught:
        load([source(path, max_unparseable=0.03)], Prompts, seed=0)
    assert "a.jsonl:" in caught.value.where


def test_gsm8k_in_its_own_shape(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"question": "6 x 7?", "answer": "Six times seven\n#### 42"}])
    (row,) = load(
        [Source(path=path, columns={"prompt": "question"}, domain="word-problems", answer_after="####")],
        Prompts,
        seed=0,
    ).rows
    assert row["answer"] == "42"
    assert row["solution"] == "Six times seven"
    assert row["id"]


def test_a_number_as_answer_is_taken_as_its_digits(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        [{"id": 1, "question": "6 x 7?", "gold": 42}, {"id": 2, "question": "1/2?", "gold": 0.5}],
    )
    assert {row["id"]: row["answer"] for row in load([source(path)], Prompts, seed=0).rows} == {
        "1": "42",
        "2": "0.5",
    }


def test_globs(tmp_path):
    problems(tmp_path / "one.jsonl", 5)
    with pytest.raises(InputError, match="no file matches"):
        load([source(tmp_path / "*.parquet")], Prompts, seed=0)
    assert len(load([source(tmp_path / "*.jsonl")], Prompts, seed=0).rows) == 5
    write(tmp_path / "two.jsonl", [{"id": "p0", "question": "What is 7 + 1?", "gold": "8"}])
    with pytest.raises(InputError, match="appears twice"):
        load([source(tmp_path / "*.jsonl")], Prompts, seed=0)


def test_code_is_left_out_without_isolation(tmp_path):
    tests = {"kind": "asserts", "setup": "", "asserts": ["assert f(1) == 2"]}
    path = write(
        tmp_path / "a.jsonl",
        [
            {"id": "c", "prompt": "f?", "domain": "code", "tests": tests},
            {"id": "m", "prompt": "1+1?", "domain": "math", "answer": "2"},
        ],
    )
    loaded = load([Source(path=path)], Prompts, seed=0, isolation=False)
    assert [row["id"] for row in loaded.rows] == ["m"]
    assert loaded.reasons == {"code without isolation": 1}
    assert len(load([Source(path=path)], Prompts, seed=0).rows) == 2


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "give one of `world`"),
        ({"world": "reasoning"}, "give a `count`"),
        ({"world": "reasonning", "count": 3}, "no 'reasonning'"),
        ({"world": "math", "count": 3, "columns": {"prompt": "q"}}, "would be ignored"),
        ({"path": "a.jsonl", "split": "dev"}, "split dev is empty"),
        ({"path": "a.jsonl", "shares": {"dev": 0.6, "heldout": 0.5}}, "less than 1"),
        ({"path": "a.jsonl", "kolumns": {}}, "Extra inputs"),
    ],
)
def test_a_wrong_source_is_refused_with_the_config(config, says):
    with pytest.raises(ValidationError, match=says):
        Source(**config)


@pytest.mark.parametrize("config", [{"world": "math", "count": 3}, {"path": "a.jsonl", "shape": "compared"}])
def test_a_resolved_config_is_read_back(config):
    one = Source(**config)
    assert Source.model_validate(json.loads(one.model_dump_json())) == one


def test_a_bad_tests_column_is_named(tmp_path):
    path = write(
        tmp_path / "a.jsonl", [{"id": "c", "prompt": "f?", "domain": "code", "tests": {"kind": "assert"}}]
    )
    with pytest.raises(InputError, match="tests has kind 'assert'"):
        load([Source(path=path)], Prompts, seed=0)


@shared
def test_gsm8k_train():
    loaded = load(
        [
            Source(
                path=SHARED / "gsm8k_train.jsonl.gz",
                columns={"prompt": "problem"},
                domain="word-problems",
                shares={"dev": 0.05},
            )
        ],
        Prompts,
        seed=0,
    )
    assert 6900 <= len(loaded.rows) <= 7300
    assert not loaded.dropped
    assert all(row["solution"] and row["answer"].lstrip("-").isdigit() for row in loaded.rows)


@shared
def test_instructions_become_chats_with_empty_thinking():
    files = [SHARED / "seed_tasks.jsonl.gz", SHARED / "user_instructions.jsonl.gz"]
    rows = load([Source(path=files, shape="instruction", language="en")], Chats, seed=0).rows
    assert len(rows) == 175 + 119
    by_id = {row["id"]: row for row in rows}
    user, assistant = by_id["user_oriented_task_2"]["messages"]
    # instruction, then input
    assert "Rewrite the given text" in user["content"]
    assert "would of laughed" in user["content"]
    assert assistant["content"].startswith("<think></think>If you'd told me a year ago")
    assert by_id["user_oriented_task_2"]["source"] == "reuse"


@shared
def test_identity_rows_are_filled():
    one = Source(path=SHARED / "identity.jsonl.gz", shape="instruction", columns={"language": "lang"})
    rows = load([one], Chats, seed=0, fill={"name": "Tiny", "author": "Us"}).rows
    text = json.dumps(rows, ensure_ascii=False)
    assert "{{" not in text
    assert "Tiny" in text
    assert {row["language"] for row in rows} == {"en", "zh"}
    with pytest.raises(InputError, match="nothing fills {{"):
        load([one], Chats, seed=0)


@shared
def test_pandalm_ties_are_dropped():
    loaded = load(
        [Source(path=SHARED / "pandalm_pairs.jsonl.gz", shape="compared", language="en")], Pairs, seed=0
    )
    assert set(loaded.reasons) == {"no clear preference"}
    assert len(loaded.rows) + len(loaded.dropped) == 449
    raw = {
        row["id"]: row
        for row in map(
            json.loads, gzip.decompress((SHARED / "pandalm_pairs.jsonl.gz").read_bytes()).splitlines()
        )
    }
    for row in loaded.rows:
        assert (
            row["chosen"] == "<think></think>" + raw[row["id"]][f"response{raw[row['id']]['label']}"].strip()
        )


@shared
def test_xstest_and_hh():
    rows = load(
        [
            Source(
                path=SHARED / "xstest.jsonl.gz",
                columns={"domain": "label"},
                values={"domain": {"safe": "lookalike", "unsafe": "harmful"}},
            )
        ],
        Prompts,
        seed=0,
    ).rows
    assert len(rows) == 234
    assert {row["domain"] for row in rows} == {"harmful", "lookalike"}
    labels = load(
        [Source(path=SHARED / "hh_harmless.jsonl.gz", shape="chosen-rejected", language="en")],
        Labels,
        seed=0,
    ).rows
    assert sum(row["safe"] for row in labels) * 2 == len(labels) >= 2000
    assert all(isinstance(row["prompt"], str) for row in labels)


def test_rows_are_selected_by_the_numbers_between_two(tmp_path):
    numbers = [9, 10, "11", 12, 510.0, 511, "x", None, -3]
    path = tmp_path / "n.jsonl"
    rows = [{"id": f"p{i}", "prompt": f"{i}?", "answer": "1", "n": n} for i, n in enumerate(numbers)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    taken = Source(path=path, where={"n": {"least": 10, "most": 511}}, domain="math", language="en")
    assert sorted(row["id"] for row in load([taken], Prompts, seed=0).rows) == ["p1", "p2", "p3", "p5"]
    with pytest.raises(ValueError, match="least"):
        Source(path=path, where={"n": {"most": 511}})


@shared
def test_rows_are_selected_by_a_column():
    mgsm = Source(
        path=SHARED / "mgsm.jsonl.gz",
        columns={"prompt": "problem", "language": "lang"},
        where={"lang": ["en", "zh"]},
        domain="word-problems",
    )
    rows = load([mgsm], Prompts, seed=0).rows
    assert {row["language"] for row in rows} == {"en", "zh"}
    assert 150 < len(rows) < 300


def test_memory_follows_the_count_and_not_the_file(tmp_path):
    """10 MB of rows, of which 50 are drawn: only keys are held of the others."""
    import tracemalloc

    path = tmp_path / "big.jsonl"
    with path.open("w") as stream:
        for number in range(1000):
            stream.write(
                json.dumps(
                    {
                        "id": f"p{number}",
                        "question": f"{number} + 1?",
                        "gold": str(number + 1),
                        "padding": "x" * 10_000,
                    }
                )
                + "\n"
            )
    load([source(problems(tmp_path / "a.jsonl"), count=10)], Prompts, seed=0)  # what is imported at first use
    tracemalloc.start()
    some = load([source(path, count=50)], Prompts, seed=0).rows
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6
    assert some == load([source(path)], Prompts, seed=0).rows[:50]


def test_patterns_in_names_of_files_and_folders(tmp_path):
    for number, name in enumerate(["x/a", "y/a", "y/b", "z[1]/a"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / f"{name}.jsonl", [{"prompt": f"{number}?", "answer": "1"}])

    def asked(pattern):
        return sorted(
            row["prompt"]
            for row in load(Source(path=tmp_path / pattern, domain="math"), Prompts, seed=0).rows
        )

    assert asked("*/a.jsonl") == ["0?", "1?", "3?"]
    assert asked("**/*.jsonl") == ["0?", "1?", "2?", "3?"]
    assert asked("[xy]/?.jsonl") == ["0?", "1?", "2?"]
    assert asked("z[1]/a.jsonl") == ["3?"], "what is really called so is no pattern"
    with pytest.raises(InputError, match="no file matches"):
        asked("*/c.jsonl")


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        (Chats, [{"prompt": "1+1?", "response": text} for text in ("2", "two", "Two")]),
        (Chats, [{"prompt": "1+1?", "response": "2", "thinking": text} for text in ("a", "b")]),
        (Pairs, [{"prompt": "1+1?", "chosen": "2", "rejected": text} for text in ("3", "4")]),
        (Labels, [{"prompt": "1+1?", "response": text, "safe": 1} for text in ("2", "two")]),
    ],
)
def test_several_replies_to_a_prompt_need_no_ids(tmp_path, kind, rows):
    found = load(Source(path=write(tmp_path / "a.jsonl", rows)), kind, seed=0).rows
    assert len(found) == len(rows)
    again = load(Source(path=write(tmp_path / "b.jsonl", rows[::-1])), kind, seed=0).rows
    assert {row["id"] for row in found} == {row["id"] for row in again}
    assert len({row["id"].split("-")[0] for row in found}) == 1
    with pytest.warns(UserWarning, match="1 rows left out .equal row"):
        once_more = load(Source(path=write(tmp_path / "c.jsonl", [*rows, rows[0]])), kind, seed=0)
    assert len(once_more.rows) == len(rows) and once_more.reasons == {"equal row": 1}
    prompts = load(Source(path=write(tmp_path / "d.jsonl", rows[:1])), Prompts, seed=0).rows
    assert prompts[0]["id"] == content_key("1+1?"), "a problem is named by its text alone"


@pytest.mark.parametrize(
    "place",
    [{"path": "a.jsonl"}, {"hub": "a/b", "revision": "0" * 40}, {"reasoning_gym": ["chain_sum"], "count": 3}],
)
def test_languages_are_asked_of_the_world_alone(place):
    with pytest.raises(ValidationError, match="languages would be ignored"):
        Source(**place, languages=["en"])
    assert Source(**place, languages=["en", "zh"])  # what a resolved config states


RECORDED = [
    ("gsm8k_train-4129", "gsm8k_train-4511", "5b7302daac769be0"),
    ("hh_harmless-417:rejected", "hh_harmless-303:rejected", "b40775988e493d77"),
]


@shared
def test_the_order_of_old_runs_stays():
    """Recorded before files were read twice: a change of this order would make every run on files another one."""
    gsm8k = Source(
        path=SHARED / "gsm8k_train.jsonl.gz",
        columns={"prompt": "problem"},
        domain="word-problems",
        shares={"dev": 0.02},
        count=200,
    )
    hh = Source(path=SHARED / "hh_harmless.jsonl.gz", shape="chosen-rejected", count=200)
    recorded = []
    for one, kind in ((gsm8k, Prompts), (hh, Labels)):
        ids = [row["id"] for row in load([one], kind, seed=3).rows]
        recorded.append((ids[0], ids[-1], content_key("".join(ids))))
    assert recorded == RECORDED
