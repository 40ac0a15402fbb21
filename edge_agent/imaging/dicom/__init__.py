"""The DICOM reader: file format, header values, acceptance, look-up tables and pixel data.

The agent parses DICOM with its own code (docs/decisions/0040-own-dicom-reader.md).
"""
