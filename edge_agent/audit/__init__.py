"""edge_agent audit: to be described."""
