"""Everything a user can set, and the only place where settings are validated.

``StyleSettings`` are the paper's hyperparameters; each field changes pixels. ``JobSettings`` say
where a job reads and writes and how it uses machines. ``ManifestSettings`` say which pairs of two
folders go into a manifest. All are frozen. Each field carries its help text, unit and range, from
which ``--help`` and ``docs/settings.md`` are generated.
"""

import dataclasses
from typing import Any, TypeVar

from pipeline.settings.fields import (
    SettingError,
    as_settings,
    choices_of,
    describe_range,
    describe_type,
    did_you_mean,
    grouped,
    in_short,
    plain_type,
    takes_only,
    unknown_setting,
)
from pipeline.settings.job import JobSettings
from pipeline.settings.manifest import ManifestSettings
from pipeline.settings.style import (
    CONVS_PER_BLOCK,
    LAYERS,
    ROW_OVERRIDES,
    StyleSettings,
    canonical,
    fingerprint,
)
from pipeline.settings.validation import check_value, in_one_form

__all__ = [
    "CONVS_PER_BLOCK",
    "LAYERS",
    "ROW_OVERRIDES",
    "JobSettings",
    "ManifestSettings",
    "SettingError",
    "StyleSettings",
    "as_settings",
    "canonical",
    "check_value",
    "choices_of",
    "describe_range",
    "describe_type",
    "did_you_mean",
    "fingerprint",
    "grouped",
    "in_one_form",
    "in_short",
    "plain_type",
    "replace",
    "takes_only",
    "unknown_setting",
]

Settings = TypeVar("Settings", StyleSettings, JobSettings, ManifestSettings)
"""Any of the three settings classes."""


def replace(settings: Settings, /, **changes: Any) -> Settings:
    """Return ``settings`` with some fields changed.

    Raises:
        SettingError: a name is no setting, or a value is out of range.
    """
    names = [spec.name for spec in dataclasses.fields(settings)]
    for name in changes:
        if name not in names:
            raise unknown_setting(name, names)
    return dataclasses.replace(settings, **changes)
