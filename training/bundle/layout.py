"""Names of a bundle's members that are evidence."""

from __future__ import annotations

EVALUATION_MEMBER, PARITY_MEMBER = "evidence/evaluation.json", "evidence/parity.json"
RUN_MEMBER, SETTINGS_MEMBER = "evidence/run.json", "evidence/settings.json"
