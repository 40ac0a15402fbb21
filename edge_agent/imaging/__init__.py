"""Study image bytes to radiographs: `read_study` reads DICOM, JPEG, PNG and TIFF.

Files are untrusted. The reader raises `StudyImageRefused` for every fault of a file.
"""

from edge_agent.imaging.limits import Limits
from edge_agent.imaging.study import read_study

__all__ = ["Limits", "read_study"]
