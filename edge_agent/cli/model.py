"""`hilum-edge model show`: show a bundle."""

from __future__ import annotations

from pathlib import Path

from edge_agent.app import models
from edge_agent.cli.console import open_stdout
from edge_agent.cli.exit_codes import EXIT_OK, report_errors
from edge_agent.cli.output import print_document, print_model
from edge_agent.cli.settings import settings_from_options


@report_errors
def show_command(*, bundle: Path | None, as_json: bool, config: Path | None) -> int:
    """Show a bundle's description as a table or as JSON; return the exit status."""
    facts = models.describe_bundle(settings_from_options(config, bundle))
    if as_json:
        print_document(facts)
    else:
        print_model(open_stdout(), facts)
    return EXIT_OK
