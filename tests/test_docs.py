"""What the README and docs/ say is so: links, commands, options, settings, messages."""

from pathlib import Path

from jobs import _settings_page

ROOT = Path(__file__).parent.parent


def test_the_page_of_settings_is_the_settings():
    assert (ROOT / "docs/settings.md").read_text() == _settings_page.page()
