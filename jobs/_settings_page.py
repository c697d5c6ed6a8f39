"""The page of all settings, made from their dataclasses.

    python -m jobs._settings_page > docs/settings.md

``INTRODUCTION`` holds what the dataclasses do not say.
"""

import dataclasses
from typing import Any

from jobs._cli import OF_A_JOB
from jobs._values import shown_default
from pipeline.settings import ManifestSettings, describe_range, grouped

INTRODUCTION = """\
# Settings

*Made by `python -m jobs._settings_page > docs/settings.md`; a test compares it with the code.*

An option on the command line, or a name in a file: `--config FILE` reads YAML or TOML, names
without the dashes and with `_` (`image_size: 512`). Options win over the file. One file serves
`stylize`, `verify` and `report`. A list is given with commas, a mapping as JSON. In
a file `storage_options` may be nested, in the file's own types: quote a key that is all digits.

- **Settings that change pixels** are marked so. They, the weights' digest, `image_format`,
  `quality` and `embed_metadata` make up the fingerprint: an output that already has pictures
  refuses a job with a different one.
- **One row's own**: a few of them may be columns of the manifest ([manifests.md](manifests.md)).
- **Credentials** belong in the environment (`AWS_*`), a role of the machine, or
  `storage_options` in the file, not on the command line, which Ray's job list shows.
- **Two folders** in place of `--manifest`: `--content` and `--style`, with `--mode`,
  `--styles-per-content`, `--label-from`, `--split-from` and `--labels` of `neural-style manifest`
  (below). The job makes the manifest in `OUTPUT/manifest` at each start: new images become new
  pairs. Finished pictures stay, even if their source images are gone.
- **In a notebook** the settings that change pixels are keyword arguments
  ([notebook.md](notebook.md)).
- **Completion**: `eval "$(register-python-argcomplete neural-style)"` in `~/.bashrc` or `~/.zshrc`,
  with the environment's `bin` folder in `PATH`; Tab completes commands, options and choices. To
  complete `python -m jobs.stylize` too, run `activate-global-python-argcomplete --user`. Tested in
  bash only.
- **More options** that are no settings, such as `--dry-run`, `--quiet`, `--json` (one JSON object
  for programs: [formats.md](formats.md#summary)) and `--price-per-gpu-hour`:
  `neural-style COMMAND --help-all`.
"""


def page() -> str:
    """Return the page as Markdown: a section for each command, a table for each group."""
    sections = [INTRODUCTION, "## neural-style stylize\n", *map(_tables, OF_A_JOB)]
    return "\n".join([*sections, "## neural-style manifest\n", _tables(ManifestSettings)])


def _tables(settings: type) -> str:
    tables = []
    for title, specs in grouped(settings).items():
        head = ["| option | default | range | what |", "| --- | --- | --- | --- |"]
        name = title[0].upper() + title[1:]
        tables.append("\n".join([f"### {name}\n", *head, *map(_line, specs)]) + "\n")
    return "\n".join(tables)


def _line(spec: "dataclasses.Field[Any]") -> str:
    name = spec.name.replace("_", "-")
    option = f"`--{name}`, `--no-{name}`" if spec.default is True else f"`--{name}`"
    default = "off" if spec.default is False else shown_default(spec)
    cells = (default, describe_range(spec), spec.metadata["help"])
    return " | ".join([f"| {option}", *(cell.replace("|", "\\|") for cell in cells)]) + " |"


if __name__ == "__main__":
    print(page(), end="")
