"""Options that several commands share, each declared once; and commands made of options classes."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_type_hints

import typer

CONTEXT: Final = {"help_option_names": ["--help", "-h"]}

Options = TypeVar("Options")

BackgroundsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Real radiographs (JPEG, PNG) to add synthetic findings to; `attribution.csv` in the "
        "folder names their origin and licence.",
    ),
]
ConfigOption = Annotated[
    Path, typer.Option(metavar="YAML", help="Configuration of the run: model, data, folder.")
]
PainterProcesses = Annotated[
    int, typer.Option(min=1, help="Number of processes that generate images.")
]
DatasetOption = Annotated[
    Path, typer.Option("--data", metavar="DIR", help="A set of `data vindr`.")
]
SplitSeed = Annotated[
    int, typer.Option(min=0, help="Seed of the split; the same seed gives the same split.")
]
ValidShare = Annotated[float, typer.Option(min=0, max=0.9, help="Share of the valid split.")]
TestShare = Annotated[float, typer.Option(min=0, max=0.9, help="Share of the test split.")]
NewSplit = Annotated[
    bool, typer.Option("--new-split", help="Divide again, although a split is frozen.")
]


def command_from_options(
    options_class: Callable[..., Options], run: Callable[[Options], int], doc: str
) -> Callable[..., None]:
    """Return a command that takes the fields of a dataclass as its options.

    Args:
        options_class: a dataclass whose fields are annotated as typer options.
        run: runs the command with the options; returns the exit status.
        doc: the command's help text.
    """

    def command(**values: Any) -> None:  # noqa: ANN401 - typed by the dataclass
        raise typer.Exit(run(options_class(**values)))

    hints = get_type_hints(options_class, include_extras=True)
    declared = signature(options_class)
    command.__signature__ = declared.replace(  # type: ignore[attr-defined] # inspect reads it
        parameters=[it.replace(annotation=hints[it.name]) for it in declared.parameters.values()]
    )
    command.__annotations__ = hints
    command.__doc__ = doc
    return command
