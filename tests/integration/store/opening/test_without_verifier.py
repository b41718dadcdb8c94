"""Where py-lmdb has no verifier, damaged pages cost no more: its reader may die of them, apart."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from random import Random

import pytest
from support.damage import SEED, Base, check_all, fixtures_of
from support.layout import scramble_head, zero
from support.openings import Openings


@pytest.fixture
def unverified(base: Base) -> Iterator[Base]:
    with closing(Openings(verifier=False)) as openings:
        yield replace(base, forked=openings)


def test_a_page_of_zeros_costs_what_was_on_it(unverified, tmp_path):
    found = check_all(unverified, fixtures_of(unverified, tmp_path, zero))
    assert any(store.set_aside for store in found)


def test_a_page_with_a_scrambled_head_costs_what_was_on_it(unverified, tmp_path):
    random = Random(SEED)
    fixtures = fixtures_of(unverified, tmp_path, lambda *at: scramble_head(*at, random))
    assert any(store.set_aside for store in check_all(unverified, fixtures))
