"""The audit log on disk: a durable hash chain of accesses, its recovery and its verification.

The chain itself and the event vocabulary are in `edge_agent.core.audit_chain`.
"""
