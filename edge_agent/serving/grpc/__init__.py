"""edge_agent serving grpc: to be described."""
