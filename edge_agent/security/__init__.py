"""Authentication of callers by API key or client certificate, and TLS of both transports.

The rules of who may do what are in `edge_agent.core.authorization`.
"""
