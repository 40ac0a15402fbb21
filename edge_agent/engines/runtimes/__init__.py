"""edge_agent engines runtimes: to be described."""
