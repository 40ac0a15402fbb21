"""Packs a bundle again with another content check."""

from __future__ import annotations

from pathlib import Path

from edge_agent.engines.bundle import Bundle
from edge_agent.system import files
from hilum.manifest import MANIFEST_NAME
from training.bundle.archive import (
    ContentCheckFiles,
    content_check_spec,
    describe_members,
    join_card,
    pack,
)
from training.bundle.golden_recording import check_content_check
from training.bundle.layout import CONTENT_BIN, CONTENT_CHECK_HEADING, CONTENT_XML
from training.data.atomic_files import explain_write_errors


def replace_content_check(
    bundle: Bundle, check: ContentCheckFiles, version: str, path: Path
) -> Bundle:
    """Pack a bundle again with this content check, in place of another or of none.

    All other members stay as they are, byte by byte. The digest changes, so a version that was
    released needs a new number.

    Args:
        bundle: the bundle; its file is not changed.
        check: the content check.
        version: version of the new bundle.
        path: the new bundle.

    Raises:
        TrainingError: the content check refuses a golden image.
    """
    stays = set(bundle.manifest.files) - {CONTENT_XML, CONTENT_BIN}
    content = {name: bundle.read(name) for name in stays}
    card, _, _ = (
        content[bundle.manifest.model_card].decode().partition(f"\n\n{CONTENT_CHECK_HEADING}\n")
    )
    content[bundle.manifest.model_card] = join_card(card, check).encode()
    content |= {CONTENT_XML: check.xml, CONTENT_BIN: check.weights}
    manifest = bundle.manifest.model_copy(
        update={
            "version": version,
            "content_check": content_check_spec(check),
            "files": describe_members(content),
        }
    )
    with explain_write_errors(path), files.replace_files(path.parent) as temporary_path:
        temporary = temporary_path(path.name)
        pack(temporary, {MANIFEST_NAME: manifest.to_bytes(), **content})
        check_content_check(Bundle.open(temporary))
    return Bundle.open(path)
