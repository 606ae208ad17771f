# SPDX-License-Identifier: Apache-2.0
"""Drawings in the terminal and by matplotlib, and the page as text: no browser looks at it here."""

import io
import json
import math
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from bench_drawings import SIZES, Record, record, sweep
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.bench.commands.report import command as report
from rdmatrain.bench.plots import draw, terminal_plot
from rdmatrain.bench.plots.page import page
from rdmatrain.errors import SettingError

SAMPLE = Path(__file__).parents[1] / "fixtures/bench-sample.jsonl"
HOSTILE = "</script><img src=x onerror=alert(1)>$x$\x1b[31m_"
SIZED = ["all_reduce"] * 2  # float32 and bfloat16
RECORDS = [json.loads(line) for line in SAMPLE.read_text("utf-8").splitlines()]
WIDE, COLUMNS = 100, "│"


def canvas(text: str) -> list[str]:
    """The rows between the frame's top and bottom, without the ticks beside them."""
    rows = [re.split("[│┤]", line) for line in text.splitlines()]
    return [row[1] for row in rows if len(row) == 3]


# ---- terminal


def test_a_slower_contestant_is_drawn_below_a_faster_one_at_every_size():
    rows = canvas(terminal_plot(sweep("rdmatrain", "gloo"), WIDE))
    assert len(rows) > 10
    for column in zip(*rows, strict=True):
        letters = "".join(column).replace(" ", "")
        assert letters in {"ox", "o", "x"} or set(letters) == {"o", "x"}
        if "x" in letters and "o" in letters:
            assert letters.startswith("o") and letters.endswith("x")
    assert any("o" in column and "x" in column for column in zip(*rows, strict=True))


def test_the_fastest_point_is_at_the_top_and_axes_say_what_they_are():
    records = [
        record(nbytes=size, busbw=speed) for size, speed in ((8, 0.01), (64, 0.1), (512, 10.0))
    ]
    text = terminal_plot(records, WIDE)
    rows = canvas(text)
    assert (rows[0].rstrip()[-1], rows[-1][0]) == ("o", "o")
    assert re.findall(r"^ *([\d.]+)┤", text, re.MULTILINE) == ["10", "1", "0.1", "0.01"]
    assert text.splitlines()[-1].split() == ["8", "B", "64", "B", "512", "B"]
    assert text.startswith(
        "all_reduce, float32 SUM, 2 ranks, in place: bus bandwidth in GB/s\no rdm"
    )


@pytest.mark.parametrize("width", [20, 60, 100, 500])
def test_a_plot_is_as_wide_as_the_terminal_within_reason(width: int):
    text = terminal_plot(sweep("rdmatrain", "gloo", "openmpi"), width)
    assert max(map(len, text.splitlines()[-10:])) == min(max(width, 40), 120)


def test_without_sizes_there_are_bars_of_the_latency():
    records = [
        record(name, 0, p50, op="barrier") for name, p50 in (("rdmatrain", 1e-6), ("gloo", 4e-6))
    ]
    title, ours, gloo = terminal_plot(records, 80).splitlines()
    assert title == "barrier, 2 ranks, in place: latency, p50"
    assert ours.startswith("rdmatrain (shm)  1 \u00b5s  ###")
    assert gloo.count("#") == pytest.approx(4 * ours.count("#"), abs=2)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stdout", "variable", "coloured"),
    [
        (Terminal, None, True),
        (Terminal, "1", False),
        (Terminal, "", True),
        (io.StringIO, None, False),
    ],
)
def test_colours_are_for_terminals_that_want_them(monkeypatch, stdout, variable, coloured):
    monkeypatch.delenv("NO_COLOR", raising=False)
    if variable is not None:
        monkeypatch.setenv("NO_COLOR", variable)
    monkeypatch.setattr(sys, "stdout", stdout())
    assert ("\x1b[" in terminal_plot(sweep("rdmatrain", "gloo"), WIDE)) == coloured


def test_where_output_is_ascii_a_plot_is_too(monkeypatch):
    records = [*sweep("rdmatrain", "gl\u00f6\u00f6"), record(nbytes=0, op="barrier")]
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    text = terminal_plot(records, WIDE)
    assert text.isascii()
    assert "10 us" in text
    assert "gl\\xf6\\xf6" in text


def test_a_name_cannot_steer_the_terminal():
    for records in (sweep(HOSTILE), [record(HOSTILE, 0, op=HOSTILE)]):
        assert "\x1b" not in terminal_plot(records, WIDE)


# ---- matplotlib


@pytest.fixture
def figures(monkeypatch) -> list[Any]:
    """The figures that are saved."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    saved: list[Any] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (saved.append(self), save(self, *a, **k))
    )
    return saved


def test_an_image_has_the_values_of_the_records(figures, tmp_path):
    records = sweep("rdmatrain", "gloo")
    draw(records, tmp_path / "a.svg")
    (figure,) = figures
    latency, bandwidth = figure.axes
    for panel, key in ((latency, "seconds_p50"), (bandwidth, "busbw")):
        drawn = [list(zip(*line.get_data(), strict=True)) for line in panel.lines]
        expected = [(each["nbytes"], each[key]) for each in records]
        assert drawn == [expected[: len(SIZES)], expected[len(SIZES) :]]
        assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
    edges = latency.collections[0].get_paths()[0].vertices
    assert {value for _, value in edges} >= {each["seconds_p99"] for each in records[: len(SIZES)]}


def test_an_axis_has_ticks_where_all_values_are_much_the_same(figures, tmp_path):
    draw([record(nbytes=8, p50=2e-6), record(nbytes=64, p50=3e-6)], tmp_path / "a.svg")
    texts = svg_texts(tmp_path / "a.svg")
    assert {"1 \u00b5s", "2 \u00b5s", "5 \u00b5s"} <= set(texts)
    assert not [text for text in texts if "$" in text]


def test_of_an_operation_without_sizes_bars_are_drawn(figures, tmp_path):
    records = [record("gloo", 0, 4e-6, op="barrier"), record("rdmatrain", 0, 1e-6, op="barrier")]
    draw(records, tmp_path / "a.png")
    panel = figures[0].axes[0]
    assert [bar.get_width() for bar in panel.patches] == [1e-6, 4e-6]
    assert [label.get_text() for label in panel.get_yticklabels()] == [
        "rdmatrain (shm)",
        "gloo (shm)",
    ]


def test_a_png_file_is_one(tmp_path):
    draw(sweep("rdmatrain"), tmp_path / "a.PNG")
    data = (tmp_path / "a.PNG").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(data[16:20], "big") == 1650


def svg_texts(path: Path) -> list[str]:
    namespace = "{http://www.w3.org/2000/svg}"
    return ["".join(each.itertext()) for each in ElementTree.parse(path).iter(f"{namespace}text")]


def test_an_svg_file_says_where_it_was_measured_and_is_the_same_each_time(tmp_path):
    records = [each for each in RECORDS if each["dtype"] == "bfloat16"]
    for name in ("a.svg", "b.svg"):
        draw(records, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    texts = svg_texts(tmp_path / "a.svg")
    first = records[0]
    for part in (
        first["machine"],
        first["kernel"],
        first["commit"],
        "2 ranks",
        "p99",
        "rdmatrain/shm",
    ):
        assert any(part in text for text in texts), part


def test_hostile_names_are_text_in_an_svg_file(tmp_path):
    records = [*sweep(HOSTILE, "_hidden", machine=HOSTILE), record(HOSTILE, 0, op=HOSTILE)]
    draw(records, tmp_path / "a.svg")
    assert "<img" not in (tmp_path / "a.svg").read_text("utf-8")
    texts = svg_texts(tmp_path / "a.svg")
    assert any("</script><img src=x onerror=alert(1)>$x$\\x1b[31m_" in text for text in texts)
    assert any("_hidden" in text for text in texts)


def test_wrong_results_are_told_in_an_image(tmp_path):
    draw([*sweep("gloo"), record(nwrong=7)], tmp_path / "a.svg")
    assert any("1 of 7 results had WRONG values" in text for text in svg_texts(tmp_path / "a.svg"))


def test_many_views_fit_into_an_image(figures, tmp_path, monkeypatch):
    monkeypatch.setattr("rdmatrain.bench.plots.figure.MOST_DOTS", 1500)
    draw(
        [each for ranks in range(1, 9) for each in sweep("gloo", sizes=(8, 64), ranks=ranks)],
        tmp_path / "a.png",
    )
    assert int.from_bytes((tmp_path / "a.png").read_bytes()[20:24], "big") <= 1500


# ---- the page


def data_of(html: str) -> dict[str, Any]:
    return json.loads(
        re.findall(r'<script type="application/json" id="data">(.*?)</script>', html)[0]
    )


def test_a_page_has_all_records_and_fetches_nothing():
    html = page(RECORDS)
    data = data_of(html)
    assert [row["seconds_p50"] for row in data["rows"]] == [each["seconds_p50"] for each in RECORDS]
    assert [row["nwrong"] for row in data["rows"]] == [each["nwrong"] for each in RECORDS]
    assert "default-src 'none'" in html
    assert not re.findall(r"""(?:src|href)=["']?(?!x )[^"' >]+""", html)
    assert len(html) < 2.5e6


def test_a_page_tells_each_run_once():
    records = [*sweep("gloo", "nccl"), *sweep("gloo", machine="Another", memory_bytes=3 << 29)]
    data = data_of(page(records))
    assert [dict(run)["Machine"] for run in data["runs"]] == ["Some Processor", "Another"]
    assert dict(data["runs"][1])["Memory"] == "1.5 GiB"
    assert dict(data["runs"][0])["Ranks bound to CPUs"] == "yes"
    assert [row["run"] for row in data["rows"]] == [1] * 12 + [2] * 6


def test_no_record_can_end_the_data_of_a_page():
    html = page([*sweep(HOSTILE, machine=HOSTILE, command="$policy", versions={HOSTILE: HOSTILE})])
    assert html.count("</script>") == 3
    assert "<img" not in html
    assert data_of(html)["contestants"][0]["name"].startswith("</script><img")


def test_what_is_no_number_in_json_is_none_in_a_page():
    data = data_of(page([record(cv=math.nan, algbw=math.inf)]))
    assert (data["rows"][0]["cv"], data["rows"][0]["algbw"]) == (None, None)


# ---- all of them

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 10**40),
    st.floats(),
    st.text(max_size=9),
    st.lists(st.none()),
)
ODD = st.dictionaries(st.sampled_from(sorted(record())), VALUES, max_size=6)


@settings(max_examples=40, deadline=None)
@given(st.lists(ODD, min_size=1, max_size=6))
def test_odd_records_are_drawn_or_refused(changes: list[Record]):
    records = [record(nbytes=8 << place) | odd for place, odd in enumerate(changes)]
    for write in (page, lambda records: terminal_plot(records, 60)):
        try:
            assert write(records)
        except SettingError as error:
            assert "nothing to draw" in str(error)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".html"])
@pytest.mark.parametrize(
    "records",
    [
        [record()],
        [record(p50=1e-14), record(nbytes=10**17, p50=1e17), record(p50=1e99)],
        [record(busbw=None), record(nbytes=8, busbw=0)],
        [
            record(
                **dict.fromkeys(("op", "backend", "asked", "transport", "dtype", "versions", "nic"))
            )
        ],
        [*sweep("gloo", sizes=(8,)), *sweep("nccl", sizes=(64,))],
        [{"seconds_p50": 1}],
    ],
    ids=["one", "far apart", "no bandwidth", "nulls", "no size in common", "almost nothing"],
)
def test_every_kind_draws_what_is_odd(records: list[Record], suffix: str, tmp_path):
    draw(records, tmp_path / f"a{suffix}")
    assert (tmp_path / f"a{suffix}").stat().st_size > 1000


def test_other_kinds_of_files_are_refused(tmp_path):
    for name in ("a.pdf", "a"):
        with pytest.raises(SettingError, match=r"name it \.html, \.png or \.svg"):
            draw(RECORDS, tmp_path / name)
    with pytest.raises(SettingError, match=r"cannot write .*: No such file or directory"):
        draw(RECORDS, tmp_path / "none" / "a.html")


@pytest.mark.parametrize(
    ("module", "write"),
    [("plotext", terminal_plot), ("plotly.offline", page),
     ("matplotlib", lambda records: draw(records, Path("a.svg")))],
)  # fmt: skip
def test_what_is_not_installed_is_named_with_how_to_get_it(monkeypatch, module, write):
    from rdmatrain.bench.plots import page as page_module  # noqa: PLC0415

    page_module._plotly.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    package = module.partition(".")[0]
    with pytest.raises(SettingError, match=rf'{package} .*: pip install "rdmatrain\[bench\]"'):
        write(sweep("gloo"))


# ---- rdmatrain bench report


def test_the_command_draws_all_that_is_asked_for(tmp_path):
    outs = [str(tmp_path / f"a.{kind}") for kind in ("html", "png", "svg")]
    done = CliRunner().invoke(
        report, [str(SAMPLE), "--html", outs[0], "--png", outs[1], "--svg", outs[2]]
    )
    assert (done.exit_code, done.output) == (0, "")
    assert all(Path(out).stat().st_size > 1000 for out in outs)
    done = CliRunner().invoke(report, [str(SAMPLE)])
    assert done.exit_code == 0
    titles = [line for line in done.output.splitlines() if ", 2 ranks" in line]
    assert [title.split(",")[0] for title in titles] == [*SIZED, "barrier"]


def test_several_files_are_told_apart_by_as_much_of_their_names_as_is_needed(tmp_path):
    (tmp_path / "x").mkdir()
    for name in ("a.jsonl", "b.jsonl", "x/b.jsonl"):
        (tmp_path / name).write_text(json.dumps(record()) + "\n")
    done = CliRunner().invoke(report, [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])
    assert re.findall(r"\[(.*?)\]", done.output) == ["a.jsonl", "b.jsonl"]
    same = [str(tmp_path / "b.jsonl"), str(tmp_path / "x/b.jsonl")]
    done = CliRunner().invoke(report, [*same, same[0]])
    assert re.findall(r"\[(.*?)\]", done.output) == same


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["none.jsonl"], "none.jsonl cannot be read: No such file"),
        ([str(SAMPLE), "--png", "a.svg"], "--png a.svg: give a name that ends in .png"),
        ([], "Missing argument"),
    ],
)
def test_wrong_options_are_one_line(args, message):
    done = CliRunner().invoke(report, args)
    assert done.exit_code == 2
    assert message in done.output
