"""edge_agent decoding: to be described."""
