"""Names of a bundle's members that are evidence."""

from __future__ import annotations

EVALUATION_MEMBER, PARITY_MEMBER = "evidence/evaluation.json", "evidence/parity.json"
BEGUN_MEMBER, SETTINGS_MEMBER = "evidence/begun.json", "evidence/settings.json"
