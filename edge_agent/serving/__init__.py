"""Serves requests: detection without a transport, and its gRPC and HTTP servers.

`grpc/` and `http/` convert requests and results and call the modules of this package, which know
no transport. Both folders use the same file names for the same jobs.
"""
