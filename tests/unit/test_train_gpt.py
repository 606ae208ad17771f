"""launch/train_gpt.py: its data, its model and its errors, without training."""

import argparse
import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "launch" / "train_gpt.py"


@pytest.fixture(scope="module")
def gpt():
    spec = importlib.util.spec_from_file_location("train_gpt", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def args(tmp_path):
    return argparse.Namespace(
        data=[tmp_path], seq_len=16, global_batch=12, seed=3, layers=2, heads=2, width=32
    )


@pytest.fixture
def main(gpt, monkeypatch, tmp_path):
    """Run as rank 1 of 2; no process group can form, so only the checks may run."""

    def run(*argv):
        with pytest.raises(SystemExit) as stopped:
            gpt.main(["--backend", "gloo", "--out", str(tmp_path / "out"), *map(str, argv)])
        return stopped.value.code

    def refuse(*_args, **_kwargs):
        pytest.fail("the group was formed before the input was checked")

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(gpt.dist, "init_process_group", refuse)
    return run


def test_the_script_stays_short_enough_to_copy():
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) < 275


def test_a_folder_is_read_in_the_order_of_its_names(gpt, tmp_path):
    (tmp_path / "b").mkdir()
    for name, text in (("b/2.txt", "two"), ("c.md", "three"), ("a.py", "one"), ("x.png", "no")):
        (tmp_path / name).write_text(text)
    assert gpt.read_text([tmp_path]) == b"onetwothree"


def test_text_is_cut_at_the_cap(gpt, tmp_path, monkeypatch):
    monkeypatch.setattr(gpt, "MAX_TEXT_BYTES", 5)
    paths = [tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "c.txt"]
    for path in paths:
        path.write_text("1234")
    assert gpt.read_text(paths) == b"12341"


def test_the_last_twentieth_is_held_out(gpt, args):
    text = bytes(range(200)) * 10
    training, heldout = gpt.split(text, args)
    assert bytes(training.tolist()) == text[:1900]
    assert bytes(heldout.tolist()) == text[1900:]


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6])
def test_the_slices_of_all_ranks_are_the_global_batch(gpt, args, world):
    data = torch.arange(5000).remainder(251).to(torch.uint8)
    whole = gpt.batch(data, args, 7, 0, 1)
    slices = [gpt.batch(data, args, 7, rank, world) for rank in range(world)]
    assert whole.shape == (12, 17)
    assert len({len(part) for part in slices}) == 1
    assert torch.equal(torch.cat(slices), whole)


def test_batches_differ_by_step_and_by_seed(gpt, args):
    data = torch.arange(5000).remainder(251).to(torch.uint8)
    first = gpt.batch(data, args, 1, 0, 1)
    assert not torch.equal(first, gpt.batch(data, args, 2, 0, 1))
    args.seed = 4
    assert not torch.equal(first, gpt.batch(data, args, 1, 0, 1))


def test_batches_reach_the_last_byte_and_no_further(gpt, args):
    data = torch.arange(args.seq_len + 1).to(torch.uint8)
    assert gpt.batch(data, args, 1, 0, 1)[0].tolist() == data.tolist()


def test_an_untrained_model_knows_nothing(gpt, args):
    torch.manual_seed(0)
    model = gpt.GPT(args)
    sequences = torch.randint(256, (8, args.seq_len + 1))
    assert model(sequences[:, :-1]).shape == (8, args.seq_len, 256)
    assert gpt.loss_of(model, sequences).item() == pytest.approx(math.log(256), abs=0.5)


def test_a_later_byte_changes_no_earlier_prediction(gpt, args):
    torch.manual_seed(0)
    model, x = gpt.GPT(args), torch.randint(256, (1, args.seq_len))
    other = x.clone()
    other[0, 9] = (x[0, 9] + 1) % 256
    before, after = model(x), model(other)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.equal(before[:, 9:], after[:, 9:])


def test_a_sample_escapes_what_cannot_be_printed(gpt, args):
    torch.manual_seed(0)
    text = gpt.sample(gpt.GPT(args), torch.tensor([104, 105, 10, 0, 255]), args)
    assert text.startswith("hi\n\\x00\\xff")
    assert text.isascii()


def one_line(capsys):
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_a_missing_file_is_named_with_the_rank(main, capsys, tmp_path):
    assert main("--data", tmp_path / "nowhere.txt") == 2
    line = one_line(capsys)
    assert line.startswith("rank 1: ")
    assert str(tmp_path / "nowhere.txt") in line


def test_an_empty_file_is_named_even_beside_good_ones(main, capsys, tmp_path):
    good, empty = tmp_path / "good.txt", tmp_path / "empty.txt"
    good.write_text("text " * 1000)
    empty.touch()
    assert main("--data", good, empty) == 2
    assert one_line(capsys) == f"rank 1: --data {empty}: no text in it"


def test_a_folder_without_text_is_named(main, capsys, tmp_path):
    assert main("--data", tmp_path) == 2
    assert one_line(capsys) == f"rank 1: --data {tmp_path}: no text in it"


def test_a_short_file_tells_how_much_is_needed(main, capsys, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("x" * 33)
    assert main("--data", short, "--seq-len", 16) == 2
    assert one_line(capsys) == (
        f"rank 1: --data {short}: 33 bytes of text, but --seq-len 16 needs 34"
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--global-batch", 3], "--global-batch 3 is not divisible by 2 ranks"),
        (["--width", 10, "--heads", 4], "--width 10 is not divisible by --heads 4"),
        (["--steps", 0], "--steps must be at least 1, not 0"),
        (["--backend", "abacus"], "--backend abacus is not known to torch.distributed"),
    ],
)
def test_a_wrong_option_is_named_with_the_rank(main, capsys, argv, message):
    assert main(*argv) == 2
    assert one_line(capsys) == f"rank 1: {message}"


def test_an_output_that_is_a_file_is_named(main, capsys, tmp_path):
    (tmp_path / "file").touch()
    assert main("--out", tmp_path / "file") == 2
    assert str(tmp_path / "file") in one_line(capsys)


@pytest.mark.parametrize("installed", [True, False])
def test_a_report_needs_no_matplotlib(gpt, monkeypatch, capsys, tmp_path, installed):
    if installed:
        pytest.importorskip("matplotlib")
    else:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = {"heldout_loss": 1 / 3, "param_sha256": ["aa", "bb"]}
    gpt.report(result, [(1, 5.5, 1000.0, 20.0, 0.25)], tmp_path)
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert (tmp_path / "loss.csv").read_text().splitlines() == [
        "step,loss,tokens_per_s,step_ms,comm_share",
        "1,5.5,1000.0,20.0,0.25",
    ]
    assert (tmp_path / "loss.png").exists() == installed
    assert ("matplotlib is not installed" in capsys.readouterr().out) != installed


@pytest.mark.parametrize(("backend", "transport"), [("gloo", None), ("rdmatrain", ["self"])])
def test_a_result_can_be_written_for_every_backend(gpt, args, backend, transport):
    if not gpt.dist.is_backend_available(backend):
        pytest.skip(f"the backend {backend} is not built")
    args.backend, args.steps = backend, 1
    store = gpt.dist.HashStore()
    gpt.dist.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        heldout = torch.arange(500).remainder(251).to(torch.uint8)
        result = gpt.measure(gpt.GPT(args), heldout, [(1, 5.5, 1000.0, 20.0, 0.25)], args)
    finally:
        gpt.dist.destroy_process_group()
    assert json.loads(json.dumps(result)) == result
    assert result["transport"] == transport
    assert [len(sha) for sha in result["param_sha256"]] == [64]
