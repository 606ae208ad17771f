# SPDX-License-Identifier: Apache-2.0
"""The HTML report in a real browser: what it draws, and what it does not do."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from headless_browser import CHROMIUM, Browser, browser

from rdmatrain.bench.plots import draw

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no browser: install Debian's chromium"
)  # fmt: skip
SAMPLE = Path(__file__).parents[1] / "fixtures/bench-sample.jsonl"
RECORDS = [json.loads(line) for line in SAMPLE.read_text("utf-8").splitlines()]
NAMES = {
    ("rdmatrain", "auto"): "rdmatrain (shm)",
    ("rdmatrain", "shm"): "rdmatrain/shm",
    ("rdmatrain", "tcp"): "rdmatrain/tcp",
    ("gloo", ""): "gloo (tcp)",
    ("limit", ""): "limit: memory",
    ("fake", ""): "limit: a call",
}
OURS, MEMORY = "rdmatrain (shm)", "limit: memory"
DRAWN = "window.Plotly && document.querySelector('#plot .main-svg')"
HOSTILE = (
    "</script><img src=x onerror='window.harm=1'><b>&lt;$x$\"'</b><a href=javascript:window.harm=1>"
)
# The curves as they are drawn: by name, the sizes and the values.
CURVES = """Object.fromEntries(document.getElementById("plot").data
    .filter((trace) => "who" in trace.meta)
    .map((trace) => [data.contestants[trace.meta.who].name, [trace.x, trace.y]]))"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def sample(page: Browser, tmp_path_factory: pytest.TempPathFactory) -> Browser:
    file = tmp_path_factory.mktemp("sample") / "a report.html"
    draw(RECORDS, file)
    page.open(file, DRAWN)
    assert page.requests == [file.as_uri()]
    return page


@pytest.fixture(autouse=True)
def quiet(page: Browser) -> Iterator[None]:
    """No test may leave a complaint in the console, or ask for anything."""
    yield
    assert page.errors == []
    assert len(page.requests) == 1


def choose(page: Browser, name: str, value: str) -> None:
    """Choose what has a text in a list, as a user does."""
    page.run(f"""(() => {{
        const list = document.getElementById({json.dumps(name)});
        const option = [...list.options].find((each) => each.text === {json.dumps(value)});
        if (!option) throw new Error([...list.options].map((each) => each.text));
        list.value = option.value;
        list.dispatchEvent(new Event("change", {{ bubbles: true }}));
    }})()""")


def switch(page: Browser, metric: str) -> None:
    page.run(f"document.querySelector('input[value={metric}]').click()")


def measured(
    key: str, op: str = "all_reduce", dtype: str = "float32"
) -> dict[str, list[list[Any]]]:
    """What should be drawn, straight from the records: by name, the sizes and the values."""
    curves: dict[str, list[list[Any]]] = {}
    for each in RECORDS:
        if (each["op"], each["dtype"]) == (op, dtype):
            sizes, values = curves.setdefault(NAMES[each["backend"], each["asked"]], [[], []])
            sizes.append(each["nbytes"])
            values.append(each[key])
    return curves


def text_of(page: Browser, selector: str) -> str:
    return page.run(f"document.querySelector({json.dumps(selector)}).textContent")


def test_curves_have_the_values_of_the_records(sample: Browser) -> None:
    for dtype in ("float32", "bfloat16"):
        choose(sample, "kind", f"{dtype} SUM")
        switch(sample, "latency")
        assert sample.run(CURVES) == measured("seconds_p50", dtype=dtype)
        switch(sample, "busbw")
        expected = measured("busbw", dtype=dtype)
        if dtype == "float32":
            expected["limit: a call"][1] = [None] * len(expected["limit: a call"][1])
        assert sample.run(CURVES) == expected
    choose(sample, "kind", "float32 SUM")
    switch(sample, "latency")
    points = sum(
        len(sizes) for name, (sizes, _) in measured("nbytes").items() if "limit" not in name
    )
    assert sample.run("document.querySelectorAll('#plot .points path').length") == points


def test_bands_go_up_to_p99(sample: Browser) -> None:
    switch(sample, "latency")
    bands = sample.run("""Object.fromEntries(document.getElementById("plot").data
        .filter((trace) => "band" in trace.meta)
        .map((trace) => [data.contestants[trace.meta.band].name, [trace.x, trace.y]]))""")
    expected = measured("seconds_p99")
    assert bands == {name: curve for name, curve in expected.items() if "limit" not in name}


def test_a_ratio_is_that_of_the_medians_to_any_base(sample: Browser) -> None:
    switch(sample, "ratio")
    medians = {k: v for k, v in measured("seconds_p50").items() if "limit" not in k}
    for base in (OURS, "gloo (tcp)"):
        choose(sample, "base", base)
        drawn = sample.run(CURVES)
        assert set(drawn) == set(medians) - {base}
        for name, (sizes, ratios) in drawn.items():
            assert sizes == medians[base][0]
            expected = [a / b for a, b in zip(medians[name][1], medians[base][1], strict=True)]
            assert ratios == pytest.approx(expected, rel=1e-12)
        assert f"Above 1: {base} is faster." in text_of(sample, "#note")


def test_the_percent_of_a_limit_is_the_part_of_the_time_that_it_takes(sample: Browser) -> None:
    switch(sample, "percent")
    medians = measured("seconds_p50")
    for limit in (MEMORY, "limit: a call"):
        choose(sample, "base", limit)
        drawn = sample.run(CURVES)
        assert set(drawn) == {name for name in medians if "limit" not in name}
        for name, (_, percents) in drawn.items():
            expected = [
                100 * a / b for a, b in zip(medians[limit][1], medians[name][1], strict=True)
            ]
            assert percents == pytest.approx(expected, rel=1e-12)


def test_what_cannot_be_drawn_of_a_case_is_not_offered_and_the_reason_is_told(
    sample: Browser,
) -> None:
    switch(sample, "percent")
    choose(sample, "op", "barrier")
    disabled = (
        "[...document.querySelectorAll('input[name=metric]:disabled')].map((each) => each.value)"
    )
    assert sample.run(disabled) == ["busbw", "percent"]
    assert sample.run("document.querySelector('input[name=metric]:checked').value") == "latency"
    note = text_of(sample, "#note")
    assert "no data is moved" in note
    assert "no result of \u201crdmatrain bench limit\u201d" in note
    (seconds,) = {len(values) for _, values in measured("nbytes", "barrier", "uint8").values()}
    assert seconds == 1
    bars = {name: x[0] for name, (x, _) in sample.run(CURVES).items()}
    assert bars == {k: v[1][0] for k, v in measured("seconds_p50", "barrier", "uint8").items()}
    choose(sample, "op", "all_reduce")
    assert sample.run(disabled) == []


def test_a_contestant_can_be_left_out(sample: Browser) -> None:
    choose(sample, "kind", "float32 SUM")
    switch(sample, "latency")
    click = """[...document.querySelectorAll("#contestants label")]
        .find((each) => each.textContent === "gloo (tcp)").firstElementChild.click()"""
    sample.run(click)
    assert set(sample.run(CURVES)) == set(measured("nbytes")) - {"gloo (tcp)"}
    sample.run(click)
    assert set(sample.run(CURVES)) == set(measured("nbytes"))


def test_hovering_tells_a_point_in_full(sample: Browser) -> None:
    switch(sample, "latency")
    tips = sample.run("""document.getElementById("plot").data
        .find((trace) => data.contestants[trace.meta.who]?.name === "gloo (tcp)").text""")
    first = next(each for each in RECORDS if each["backend"] == "gloo")
    assert len(tips) == 7
    assert tips[0].startswith("<b>gloo (tcp)</b><br>8 B<br>p50 ")
    for part in ("p99", f"cv {100 * first['cv']:.3g} %", "busbw", "#wrong 0"):
        assert part in tips[0]


def test_the_table_and_the_facts_are_those_of_the_records(sample: Browser) -> None:
    rows = sample.run(
        """[...document.querySelectorAll("tbody tr")]
        .map((row) => [...row.cells].map((cell) => cell.textContent))"""
    )
    assert [row[:2] for row in rows] == [
        [each["op"], NAMES[each["backend"], each["asked"]]] for each in RECORDS
    ]
    heads = sample.run("[...document.querySelectorAll('thead th')].map((cell) => cell.textContent)")
    column = heads.index("busbw GB/s")
    assert [float(row[column]) for row in rows] == pytest.approx(
        [each["busbw"] for each in RECORDS], rel=5e-3
    )
    facts = text_of(sample, "#runs")
    for each in (RECORDS[0], RECORDS[-1]):
        assert all(each[key] in facts for key in ("command", "time", "commit", "machine", "kernel"))


def test_the_keyboard_reaches_everything(sample: Browser) -> None:
    switch(sample, "latency")
    sample.run("document.activeElement.blur()")
    reached = set()
    for _ in range(24):
        sample.press("Tab")
        reached.add(
            sample.run(
                """(({ id, name, className }) => id || name || className)
                (document.activeElement)"""
            )
        )
    assert reached >= {"op", "kind", "metric", "scroll"}
    sample.run("document.querySelector('input[value=latency]').focus()")
    sample.press("ArrowRight")
    assert sample.run("document.querySelector('input[name=metric]:checked').value") == "busbw"
    assert sample.run(CURVES)[OURS] == measured("busbw")[OURS]


def test_dark_is_dark_and_light_is_light(sample: Browser) -> None:
    brightness = """(() => {
        const of = (colour) => colour.match(/[0-9.]+/g).slice(0, 3)
            .reduce((sum, each) => sum + Number(each), 0);
        const body = getComputedStyle(document.body);
        return [of(body.backgroundColor), of(body.color)];
    })()"""
    same = """getComputedStyle(document.querySelector("#plot .main-svg")).backgroundColor
        === getComputedStyle(document.body).backgroundColor"""
    colours = []
    for dark in (True, False):
        sample.dark(dark)
        sample.wait(f"matchMedia('(prefers-color-scheme: dark)').matches === {str(dark).lower()}")
        sample.wait(same)
        paper, ink = sample.run(brightness)
        low, high = (paper, ink) if dark else (ink, paper)
        assert low < 150
        assert high > 600
        colours.append(
            sample.run("document.getElementById('plot').data.map((trace) => trace.line?.color)")
        )
    assert colours[0] != colours[1]


def test_no_button_sends_the_results_away(sample: Browser) -> None:
    titles = sample.run(
        "[...document.querySelectorAll('.modebar-btn')].map((each) => each.dataset.title)"
    )
    assert len(titles) == 4
    assert not [title for title in titles if "hare" in title or "loud" in title or "ink" in title]
    # Nor could it: the policy of the page forbids it.
    assert (
        sample.run("fetch('https://example.invalid').then(() => 'sent', () => 'refused')")
        == "refused"
    )
    assert [text for text in sample.errors if "Content Security Policy" in text]
    sample.errors.clear()
    del sample.requests[1:]


def test_hostile_records_do_nothing(page: Browser, tmp_path: Path) -> None:
    texts = (
        "op",
        "backend",
        "asked",
        "transport",
        "dtype",
        "redop",
        "machine",
        "command",
        "kernel",
        "commit",
        "host",
    )
    hostile = [
        each | dict.fromkeys(texts, HOSTILE) | {"versions": {HOSTILE: HOSTILE}}
        for each in RECORDS[:9]
    ]
    draw(
        [*RECORDS, *hostile, RECORDS[0] | {"backend": "__proto__", "nwrong": HOSTILE}],
        tmp_path / "a.html",
    )
    page.open(tmp_path / "a.html", DRAWN)
    choose(page, "op", HOSTILE)
    for metric in ("latency", "busbw"):
        switch(page, metric)
        page.run("Plotly.Fx.hover('plot', [{ curveNumber: 0, pointNumber: 0 }])")
        assert page.run("window.harm") is None
        assert page.run("document.querySelectorAll('img, #plot a, td *, dd *').length") == 0
    assert HOSTILE in text_of(page, "tbody tr:nth-last-child(2)")
    assert HOSTILE in text_of(page, "#runs")
    assert HOSTILE.split("<b>", maxsplit=1)[0] in text_of(page, "#plot")


def test_wrong_results_stand_out(page: Browser, tmp_path: Path) -> None:
    draw([RECORDS[0], RECORDS[1] | {"nwrong": 5}], tmp_path / "a.html")
    page.open(tmp_path / "a.html", DRAWN)
    assert "1 of 2 results had wrong values" in text_of(page, "#warning")
    assert page.run("[...document.querySelectorAll('tr.wrong')].map((row) => row.rowIndex)") == [2]


def test_a_browser_that_cannot_unpack_shows_the_table_and_says_so(
    page: Browser, tmp_path: Path
) -> None:
    draw(RECORDS[:2], tmp_path / "a.html")
    file = tmp_path / "a.html"
    file.write_text(file.read_text("utf-8").replace('id="plotly">H4', 'id="plotly">H5'), "utf-8")
    page.open(file, "document.querySelector('#warning:not([hidden])')")
    assert "cannot be drawn by this browser" in text_of(page, "#warning")
    assert page.run("document.querySelectorAll('tbody tr').length") == 2
