"""edge_agent serving http: to be described."""
