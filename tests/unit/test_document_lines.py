"""The lines that trials of hosts take from the documents are there, and are a person's."""

from pathlib import Path

import pytest
from hosts.inits import BUNDLE, CHECKOUT, INITS, INSTALLING, PACKAGE
from hosts.readme import shell_blocks
from support.paths import ROOT


@pytest.mark.parametrize("heading", [PACKAGE, BUNDLE, CHECKOUT])
def test_each_way_of_installing_has_its_lines_and_those_that_undo_it(heading: str) -> None:
    install, remove = shell_blocks(INSTALLING, heading)
    assert [line for line in install if line.startswith("geosched-ctl init")]
    assert "purge" in remove[0] or "/etc/geosched" in " ".join(remove)


@pytest.mark.parametrize("init", INITS.values(), ids=INITS.keys())
def test_each_init_has_lines_that_switch_it_on_and_off(init) -> None:
    switch_on, switch_off = shell_blocks(INSTALLING, init.heading)
    assert "geosched" in " ".join(switch_on)
    assert "rm " in " ".join(switch_off)


def test_the_common_case_is_the_same_in_the_readme_and_short() -> None:
    (lines,) = shell_blocks(ROOT / "README.md", "Deployment")
    assert lines == shell_blocks(INSTALLING, PACKAGE)[0]
    assert len(lines) <= 12


def test_comments_are_no_commands_and_other_headings_not_this_one(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n```sh\nno\n```\n## B\n```sh\n# not\none    # but not this\n```\n"
        "### C\n```sh\ntwo\n```\n## D\n```sh\nno\n```\n"
    )
    assert shell_blocks(page, "B") == [["one"], ["two"]]
    with pytest.raises(ValueError, match="no heading 'E'"):
        shell_blocks(page, "E")
