"""Laws of reports/sweep.html: one file without the network, the figures of the records, values that are text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.pages.rendering import png_uri
from pipeline.runs.sweep_folder import FAILED, RUNNING, STOPPED
from pipeline.sweep.advice import Outcome, advise
from pipeline.sweep.charts import draw_curves
from pipeline.sweep.importance import Importance
from pipeline.sweep.page import build_page, judge_in_words, trust_sentences
from tests.pipeline.evaluate.test_page import Reader
from tests.pipeline.sweep.made_up_sweep import make_outcome, make_setting

HOSTILE = '"><script>alert(1)</script> <img src=x onerror=alert(2)> & $x_{$'
BEST = make_setting(1, {"loss.alpha": 0.4, "loss.gamma": 3.9}, 0.5)
BASE = make_setting(0, {}, 0.3)
SETTINGS = [
    BEST,
    BASE,
    make_setting(2, {"loss.alpha": 0.123456, "loss.gamma": 1.0}, 0.2, state=STOPPED),
    make_setting(3, {"loss.alpha": 0.9}, state=FAILED, error="loss is nan"),
    make_setting(4, {"loss.alpha": 0.8}, state=RUNNING),
]


def page_of(outcome: Outcome, **changes: Any) -> str:
    known: dict[str, Any] = {"command": "dvc exp run -S loss.alpha=0.4", "plots": []}
    return build_page(outcome, **known | changes)


def test_page_is_one_file_that_refers_to_nothing_outside(tmp_path: Path) -> None:
    path = tmp_path / "sweep_map.png"
    Image.new("RGB", (90, 60), (9, 9, 9)).save(path)
    importances = [Importance("loss.gamma", 0.8, 0.005), Importance("loss.alpha", 0.2, 0.4)]
    text = page_of(make_outcome(SETTINGS, importances=importances), plots=[path, tmp_path / "sweep_importance.png"])
    reader = Reader(text)
    links = [str(value) for _, names in reader.elements for name, value in names.items() if name in ("src", "href")]
    assert len(links) > 6 and all(link.startswith(("data:image/", "#")) for link in links)
    assert "://" not in re.sub(r'"data:[^"]*"', "", text) and "url(" not in text and len(reader.scripts) == 1
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(re.findall(r'id="([^"]+)"', text))
    assert png_uri(path.read_bytes()) in text and "AP over two parameters" in text
    assert "loss.gamma matters." in text and "among the best 5 of 3" in text
    assert page_of(make_outcome(SETTINGS)) == page_of(make_outcome(SETTINGS))


def test_a_hundred_trials_stay_far_below_the_size_of_a_mail() -> None:
    settings = [make_setting(n, {"loss.alpha": n / 200}, 0.5 - n / 300) for n in range(100)]
    assert len(page_of(make_outcome(settings))) < 1_000_000


def test_values_and_errors_are_text() -> None:
    settings = [make_setting(1, {"model.weights": HOSTILE}, 0.5), make_setting(2, {}, state=FAILED, error=HOSTILE)]
    space = {"model.weights": {"choice": [None, HOSTILE]}}
    changes: dict[str, Any] = {"sweep": {"space": space, "fixed": {"model.weights": HOSTILE}}}
    reader = Reader(page_of(make_outcome(settings, **changes), command=HOSTILE))
    assert len(reader.scripts) == 1 and "alert" not in reader.scripts[0]
    assert not any(name.startswith("on") for _, names in reader.elements for name in names)
    assert reader.text.count("<script>alert(1)</script>") >= 5
    assert not any(names.get("src") == "x" for _, names in reader.elements)


def test_the_table_has_a_row_for_each_setting_with_the_values_by_which_to_sort() -> None:
    text = page_of(make_outcome(SETTINGS))
    table = text[text.index('class="sortable"') :].partition("</table>")[0]
    rows = re.findall(r'<th scope="row" class="number">(\d)</th><td class="number">([\d.-]+)</td>', table)
    assert rows == [("1", "0.500"), ("0", "0.300"), ("2", "0.200"), ("3", "-"), ("4", "-")]
    assert 'data-value="0.123456">0.123</td>' in table and "loss is nan" in table
    assert re.findall(r'class="badge"[^>]*>(\w+)<', table) == ["finished", "finished", "stopped", "failed", "running"]
    assert 'data-value="0.25">0.25</td>' in table  # alpha of params.yaml, for the setting that does not change it
    assert '<tr class="winner">' in table and "+-" not in table  # one seed has no spread


def test_the_winner_stands_against_params_yaml_with_its_range() -> None:
    text = page_of(make_outcome(SETTINGS))
    table = text[text.index('id="winner"') :].partition("</table>")[0]
    rows = [
        re.findall(r"<(?:code|td)[^>]*>(?:<strong>)?([^<]*)<", row)
        for row in table.partition("<tbody>")[2].split("</tr>")
    ]
    assert rows == [
        ["loss.alpha", "0.25", "0.4", "uniform [0.1, 0.9]", ""],
        ["loss.gamma", "2.0", "3.9", "uniform [0.0, 4.0]", "on the upper edge"],
        [],
    ]
    assert "<code>train.epochs: 4</code>" in text and "dvc exp run -S loss.alpha=0.4" in text


def test_the_verdict_says_what_won_and_whether_seeds_bear_it_out() -> None:
    outcome = make_outcome([BEST, BASE])
    won, held, following = judge_in_words(outcome, advise(outcome))
    assert won.startswith("Trial 1 of 2 settings, with AP 0.500 on val: loss.alpha 0.4, loss.gamma 3.9.")
    assert "The unchanged params.yaml reaches 0.300." in won and "with one seed per setting" in held
    assert (
        following == "The winner's loss.gamma, 3.9, lies on the edge of its range. Search beyond it: a better value "
        "may lie there."
    )
    seeded = make_outcome([make_setting(1, {"loss.alpha": 0.4}, 0.5, 0.52), BASE], sweep={"seeds": 2})
    # Of two values the standard deviation is their distance over the root of 2: 0.02 / 1.414 = 0.014.
    assert "Its seeds spread by 0.014" in judge_in_words(seeded, [])[1]
    assert judge_in_words(seeded, [])[2].startswith("Nothing asks for another sweep")
    assert trust_sentences(outcome)[0] == "The next best, trial 0, is 0.200 behind."


def test_curves_tell_stopped_trials_by_dashes_and_mark_as_well_as_by_colour() -> None:
    axes = draw_curves(SETTINGS).axes[0]
    drawn = [(line.get_color(), line.get_linestyle(), line.get_markerfacecolor()) for line in axes.get_lines()]
    assert len(set(drawn)) == len(drawn) == 3  # stopped, finished, the winner
    assert len({line[1:] for line in drawn[:2]}) == 2
    assert drawn[0][1] == "--" and drawn[1][1] == "-"
    assert axes.get_lines()[-1].get_xydata().tolist() == [[3.0, 0.49], [4.0, 0.5]]


@pytest.mark.parametrize("settings", [[make_setting(0, {}, 0.4)], [make_setting(0, {"loss.alpha": 0.5}, 0.4)]])
def test_a_sweep_of_one_trial_has_a_page(settings: Any) -> None:
    text = page_of(make_outcome(settings, sweep={"space": {}}))
    assert "One parameter alone was varied." in text and "Trial 0 of 1 settings" in text
    assert re.findall(r">\s*(nan|None|inf)\s*<", text) == []
