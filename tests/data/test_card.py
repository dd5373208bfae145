"""The card: the paper's columns, by domain."""

from r1pipe.data.card import NOBODY, Counted, table


def test_statistics_of_rows_that_pass_by():
    chat = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cdef"}]
    rows = [
        {"domain": "code", "messages": chat},
        {"domain": "code", "messages": chat * 2},
        {"domain": "math", "prompt": "abc", "answer": "42"},
    ]
    counted = Counted(tokens=lambda texts: [2 * len(text) for text in texts])
    assert list(counted.watch(rows)) == rows
    found = counted.statistics()
    assert list(found["domains"]) == ["code", "math"]
    code = found["domains"]["code"]
    assert (code["rows"], code["share"], code["rounds"]) == (2, 0.6667, 1.5)
    assert code["characters"] == {"mean": 9.0, "p50": 9.0, "p90": 11.4, "p99": 11.9, "max": 12}
    assert found["domains"]["math"]["tokens"]["mean"] == 6.0
    assert found["total"]["characters"]["mean"] == 7.0


def test_the_table_shows_tokens_where_they_were_counted():
    counted = Counted(tokens=lambda texts: [7] * len(texts))
    list(counted.watch([{"domain": "math", "prompt": "abc"}]))
    shown = table(
        {"statistics": counted.statistics(), "reviews": NOBODY, "dropped": {"near-duplicate": 1234}}
    )
    assert "Avg tokens" in shown
    assert "| math | 1 | 100.0% | 1.0 | 7.0 |" in shown
    assert "| near-duplicate | 1,234 |" in shown
    assert "not reviewed by people" in shown


def test_an_empty_dataset_has_a_card():
    assert "**Total** | 0" in table({"statistics": Counted().statistics(), "reviews": NOBODY})
