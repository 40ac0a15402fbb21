"""Prints findings, failures and bundles, as tables for people and as JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge_agent.cli.batch import FileOutcome
from edge_agent.serving.grpc import converters
from edge_agent.serving.types import DetectionResult
from hilum.v1 import detection_pb2 as pb


def outcome_document(outcome: FileOutcome) -> dict[str, Any]:
    """Return a file's outcome in the contract's JSON: `DetectResponse`'s fields, or `error`."""
    document: dict[str, Any] = {"file": str(outcome.path)}
    if outcome.result:
        document |= converters.to_json(converters.to_detect_response(outcome.result))
        del document["request_id"]  # `file` identifies the document instead.
    if error := outcome.error:
        message = pb.Error(code=error.code, message=error.message, hint=error.hint)
        document["error"] = converters.to_json(message)
    return document


def print_document(document: object) -> None:
    """Write a document as indented JSON to standard output."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def print_result(console: Console, path: Path, result: DetectionResult) -> None:
    """Print a file's findings."""
    print_response(console, str(path), converters.to_detect_response(result))


def print_response(console: Console, title: str, response: pb.DetectResponse) -> None:
    """Print a table of findings, with facts about the image above and warnings below.

    Args:
        console: where it is printed.
        title: the image's name.
        response: the findings, facts and warnings.
    """
    facts = [f"{response.image.columns} x {response.image.rows} px", response.image.format]
    if response.image.view:
        facts.append(f"view {response.image.view}")
    console.print(f"[bold]{escape(title)}[/bold] ({escape(', '.join(facts))})", soft_wrap=True)
    if response.findings:
        console.print(findings_table(response))
    else:
        console.print("  No finding reached its threshold. This does not rule anything out.")
    warnings: Iterable[Any] = response.warnings  # The stubs refer to Python's built-in Warning.
    for warning in warnings:
        console.print(
            f"  [yellow]warning[/yellow] {warning.code}: {escape(warning.message)}", soft_wrap=True
        )


def findings_table(response: pb.DetectResponse) -> Table:
    """Return the findings by falling score, with boxes in pixels of the original image."""
    table = Table()
    table.add_column("Finding")
    for heading in ("Score", "x min", "y min", "x max", "y max"):
        table.add_column(heading, justify="right")
    for finding in response.findings:
        box = finding.box
        table.add_row(
            finding.name,
            f"{finding.score:.2f}",
            *(f"{value:.0f}" for value in (box.x_min, box.y_min, box.x_max, box.y_max)),
        )
    return table


def print_model(console: Console, facts: dict[str, Any]) -> None:
    """Print a bundle's description, one fact a line, and its operating points."""
    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    shown = facts | facts["provenance"]
    for name, value in shown.items():
        if not isinstance(value, dict):
            text = ", ".join(value) if isinstance(value, list) else str(value)
            table.add_row(name.replace("_", " "), escape(text))
    for name, value in shown["metrics"].items():
        table.add_row(escape(name), f"{value:.3f}")
    console.print(table)
    points = Table(title="Operating points (lowest score)", title_justify="left")
    points.add_column("Finding")
    by_engine = facts["operating_points"]
    for engine in by_engine:
        points.add_column(engine, justify="right")
    for slug in next(iter(by_engine.values())):
        points.add_row(slug, *(f"{of[slug]:.2f}" for of in by_engine.values()))
    console.print(points)
