"""edge_agent imaging raster: to be described."""
