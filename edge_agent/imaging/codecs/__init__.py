"""edge_agent imaging codecs: to be described."""
