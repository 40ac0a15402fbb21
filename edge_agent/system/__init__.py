"""edge_agent system: to be described."""
