"""Opening a store with damaged pages costs what was on them, and nothing else."""

from random import Random

import pytest
from support.damage import ACTIONS, SEED, Fixture, check_all, fixtures_of
from support.layout import PAGE_BYTES, PAGE_HEAD_BYTES, flip, rows_on, scramble_head, zero
from support.store import data_file

FLIPS = 100
#: Of a page that says where the tables are, what is used.
HEAD_BYTES = 152
ROWS_PER_PAGE, ROW_HEAD_BYTES = 1, 8


@pytest.mark.parametrize("backup", ["", "2"], ids=["no-backup", "backup"])
def test_a_page_of_zeros_costs_what_was_on_it(base, tmp_path, backup):
    fixtures = fixtures_of(base, tmp_path, zero, backed_up=bool(backup))
    found = check_all(base, fixtures, backup=backup)
    for page, store in enumerate(found):
        known = base.layout.tables.get(page, "free")
        if page in base.layout.inside_values:
            assert store.incidents[0].detail == "1 damaged value put aside, of details"
        else:
            assert bool(store.set_aside) == (known != "free"), fixtures[page].name
            assert not backup or len(store.actions) == ACTIONS + 1, fixtures[page].name


def test_a_page_with_a_scrambled_head_costs_what_was_on_it(base, tmp_path):
    random = Random(SEED)
    check_all(base, fixtures_of(base, tmp_path, lambda *at: scramble_head(*at, random)))


def test_a_file_that_is_cut_short_costs_what_was_behind(base, tmp_path):
    fixtures = []
    lost: set[str] = set()
    for page in range(base.layout.pages - 1, 0, -1):
        lost |= base.on(page)
        if base.layout.tables.get(page) == "main":
            lost = set(base.holds.actions)  # nobody can say any more where its tables are
        state_dir = base.copy(tmp_path / str(page))
        with data_file(state_dir).open("r+b") as file:
            file.truncate(page * PAGE_BYTES)
        fixtures.append(Fixture(f"cut at page {page}", state_dir, frozenset(lost)))
    check_all(base, fixtures)


def test_flipped_bits_cost_at_most_what_is_on_their_page(base, tmp_path):
    random = Random(SEED)
    used = sorted(base.layout.tables)
    fixtures = []
    for number in range(2 * FLIPS):
        page = random.choice(used)
        inside = range(PAGE_HEAD_BYTES) if number % 2 else range(PAGE_HEAD_BYTES, PAGE_BYTES)
        offset, bit = page * PAGE_BYTES + random.choice(inside), random.randrange(8)
        state_dir = base.copy(tmp_path / str(number))
        flip(data_file(state_dir), offset, bit)
        name = f"byte {offset} bit {bit}, page {page} ({base.layout.tables[page]})"
        fixtures.append(Fixture(name, state_dir, frozenset(base.on(page))))
    found = check_all(base, fixtures)
    assert any(store.incidents for store in found)


def test_a_flipped_bit_in_the_head_of_a_row_costs_at_most_what_is_on_its_page(base, tmp_path):
    """Where the size of a row is wrong, its removal would break the others."""
    random = Random(SEED)
    fixtures = []
    trees = base.layout.tables.keys() - base.layout.overflow - {0, 1}
    for page in sorted(trees):
        rows = rows_on(data_file(base.state_dir), page)
        for row in random.sample(rows, min(len(rows), ROWS_PER_PAGE)):
            for byte in range(ROW_HEAD_BYTES):
                state_dir = base.copy(tmp_path / f"{row}-{byte}")
                flip(data_file(state_dir), row + byte, random.randrange(8))
                name = f"byte {byte} of row {row}, page {page} ({base.layout.tables[page]})"
                fixtures.append(Fixture(name, state_dir, frozenset(base.on(page))))
    check_all(base, fixtures)


def test_a_flipped_bit_in_a_head_of_the_file_costs_nothing(base, tmp_path):
    random = Random(SEED)
    fixtures = []
    for page in (0, 1):
        for byte in range(page, HEAD_BYTES, 2):
            state_dir = base.copy(tmp_path / f"{page}-{byte}")
            flip(data_file(state_dir), page * PAGE_BYTES + byte, random.randrange(8))
            fixtures.append(Fixture(f"byte {byte} of head {page}", state_dir))
    check_all(base, fixtures)
