# SPDX-License-Identifier: Apache-2.0
"""The page of the doctor's checks is made of the checks, and the README shows what it prints."""

from pathlib import Path

from click.testing import CliRunner

from rdmatrain.cli import cli
from rdmatrain.doctor.catalog import every
from rdmatrain.doctor.document import PAGE, listing, listing_of_page, page

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_of_checks_is_up_to_date():
    assert PAGE.read_text("utf-8") == page(every()) + "\n", (
        "run: rdmatrain doctor --list --markdown > CHECKS.md && mv CHECKS.md rdmatrain/doctor/"
    )


def test_the_list_that_is_read_from_the_page_is_that_of_the_checks():
    assert listing_of_page() == listing(every())


def test_the_readme_shows_what_the_doctor_says(monkeypatch):
    monkeypatch.chdir(ROOT)
    command = "doctor -F tests/fixtures/discovery/pod.snapshot.json"
    _, _, shown = (ROOT / "README.md").read_text("utf-8").partition(f"$ rdmatrain {command}\n")
    said = CliRunner().invoke(cli, command.split()).output.splitlines()
    lines = shown.partition("\n```")[0].splitlines()
    assert len(lines) > 10
    # How long it took differs.
    assert [line for line in lines if line not in said and " checks of " not in line] == []
