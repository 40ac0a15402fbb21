"""The edge agent's decisions, as pure code: no I/O, no threads, no clock.

Callers pass values and the current time; what is returned is carried out by other packages.
"""
