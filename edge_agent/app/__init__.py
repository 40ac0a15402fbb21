"""edge_agent app: to be described."""
