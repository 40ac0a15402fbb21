"""edge_agent security: to be described."""
