"""Where the tree under test is, so that no test counts the folders above itself."""

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
DEPLOY = ROOT / "deploy"
DOCS = ROOT / "docs"
#: Stores of past formats, a directory each.
STORES = TESTS / "data" / "stores"
