"""edge_agent engines selection: to be described."""
