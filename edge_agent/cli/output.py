"""What the command line says about answers, refusals and models."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge_agent.cli.batch import FileOutcome
from edge_agent.errors import HilumError
from edge_agent.serving.grpc import converters
from hilum.client import DetectError
from hilum.v1 import detection_pb2 as pb


def outcome_document(outcome: FileOutcome) -> dict[str, Any]:
    """One file's outcome in the contract's JSON: `DetectResponse`'s fields, or `error`."""
    document: dict[str, Any] = {"file": str(outcome.path)}
    if outcome.answer:
        document |= converters.as_json(converters.detect_response(outcome.answer))
        del document["request_id"]  # Here the file's name tells answers apart.
    if outcome.error:
        document["error"] = converters.as_json(converters.error_message(outcome.error))
    return document


def print_response(console: Console, title: str, response: pb.DetectResponse) -> None:
    """A table of findings, with the image's facts above and its warnings below."""
    facts = [f"{response.image.columns} x {response.image.rows} px", response.image.format]
    if response.image.view:
        facts.append(f"view {response.image.view}")
    console.print(f"[bold]{escape(title)}[/bold] ({escape(', '.join(facts))})", soft_wrap=True)
    if response.findings:
        console.print(findings_table(response))
    else:
        console.print("  Nothing reached its threshold. This does not rule anything out.")
    warnings: Iterable[Any] = response.warnings  # The stubs mean Python's own Warning.
    for warning in warnings:
        console.print(
            f"  [yellow]warning[/yellow] {warning.code}: {escape(warning.message)}", soft_wrap=True
        )


def findings_table(response: pb.DetectResponse) -> Table:
    """Findings by falling score, boxes in pixels of the original image."""
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


def print_error(
    console: Console, error: HilumError | DetectError, *, file: Path | None = None
) -> None:
    """Code, what is wrong, what to do."""
    where = f"{escape(str(file))}: " if file else ""
    console.print(
        f"[bold red]error[/bold red] {where}{error.code}: {escape(error.message)}", soft_wrap=True
    )
    if error.hint:
        console.print(f"  {escape(error.hint)}", soft_wrap=True)


def print_misuse(console: Console, message: str) -> None:
    """What about the command line does not make sense."""
    console.print(f"[bold red]error[/bold red] {escape(message)}", soft_wrap=True)


def print_model(console: Console, facts: dict[str, Any]) -> None:
    """A bundle's facts, one per line, and its operating points."""
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
    points = Table(title="Operating points (score from)", title_justify="left")
    points.add_column("Finding")
    by_engine = facts["operating_points"]
    for engine in by_engine:
        points.add_column(engine, justify="right")
    for slug in next(iter(by_engine.values())):
        points.add_row(slug, *(f"{of[slug]:.2f}" for of in by_engine.values()))
    console.print(points)
