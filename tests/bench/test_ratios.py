"""Laws of what the micro benches share."""

from __future__ import annotations

import time

import torch

from bench.ratios import Case, compare, with_section

OLD = "# Results\n\nNewest first.\n\n## 2020-01-01 A\nold a\n\n## 2020-01-01 Not A at all\nother\n"


def test_a_section_replaces_the_older_one_of_its_title_and_stands_first() -> None:
    today = time.strftime("%Y-%m-%d")
    assert with_section(OLD, "A", "new a") == (
        f"# Results\n\nNewest first.\n\n## {today} A\nnew a\n\n## 2020-01-01 Not A at all\nother\n"
    )


def test_contenders_run_in_turns_and_every_peer_has_a_row() -> None:
    threads, order = torch.get_num_threads(), []
    case = Case("sum", lambda: order.append("ours"), {"a": lambda: order.append("a"), "b": lambda: order.append("b")})
    rows = compare(case, [1], repeats=2)
    assert [row[:2] + row[3:4] for row in rows] == [["sum", "1", "a"], ["sum", "1", "b"]]
    turns = [name for name, before in zip(order, ["", *order], strict=False) if name != before]
    assert turns == ["ours", "a", "b"] * 2
    assert torch.get_num_threads() == threads
