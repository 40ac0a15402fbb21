"""edge_agent imaging dicom: to be described."""
