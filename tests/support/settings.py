"""Settings as texts, and loaded from a file of a test's own."""

from pathlib import Path

from geosched.supervisor.config.sections import Settings
from geosched.supervisor.config.settings import load

BACKEND = '[backend]\nkind = "file"\npath = "actions.json"\n'
SCRIPT = '[scripts.default]\ncommand = ["true"]\n'


def loaded(directory: Path, text: str) -> Settings:
    file = directory / "geosched.toml"
    file.write_text(text)
    return load(file)


def here(directory: Path, more: str = SCRIPT) -> Settings:
    """Settings whose directories are below `directory`."""
    daemon = '[daemon]\nstate_dir = "state"\nruntime_dir = "run"\nlog_dir = "log"\n'
    return loaded(directory, f"{daemon}{BACKEND}{more}")


OAUTH = """[backend]
url = "https://b"
auth = "oauth"
token_file = "tokens.json"
oauth_token_url = "https://login.example/oauth/token"
oauth_client_id = "device-1"
"""
