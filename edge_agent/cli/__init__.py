"""edge_agent cli: to be described."""
