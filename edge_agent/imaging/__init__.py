"""Study image bytes to pixels."""

from edge_agent.imaging.limits import Limits
from edge_agent.imaging.study import read_study

__all__ = ["Limits", "read_study"]
