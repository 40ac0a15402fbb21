"""The audit log on disk: a durable hash chain of accesses in SQLite, its recovery, verification and
export, and its messages to an audit record repository.

The chain itself and the event vocabulary are in `edge_agent.core.audit_chain`.
"""
