"""The settings of one command: the file and the environment, and the command line above both."""

from __future__ import annotations

from pathlib import Path

from edge_agent.config import Settings, load_settings


def settings_from_options(
    config: Path | None,
    bundle: Path | None = None,
    *,
    port: int | None = None,
    http_port: int | None = None,
) -> Settings:
    """Load the settings; options that were given on the command line win.

    Args:
        config: a TOML file.
        bundle: a bundle's file, or the name of one that comes with the agent.
        port: the port for gRPC; 0 for a free one.
        http_port: the port for HTTP; 0 for a free one.

    Returns:
        The settings.

    Raises:
        ConfigInvalid: a source cannot be read, or a name or a value is wrong.
    """
    overrides: dict[str, object] = {}
    if bundle:
        overrides["bundle"] = bundle
    if port is not None:
        overrides["grpc"] = {"port": port}
    if http_port is not None:
        overrides["http"] = {"port": http_port}
    return load_settings(config, overrides)
