"""What commands print for people is printed as it is."""

import pytest

from pipeline.cli.screen import compact_table, open_screen


def test_brackets_and_colons_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    text = "runs/[bold]a:key:b"
    table = compact_table("run")
    table.add_row(text)
    screen = open_screen()
    screen.print(text)
    screen.print(table)
    assert capsys.readouterr().out.count(text) == 2
