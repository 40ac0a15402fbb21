"""Decoders for compressed pixels: JPEG, JPEG-LS headers, JPEG 2000 and HTJ2K.

Each module reads a codestream's declarations before a native decoder gets it, and converts a
decoder's error to a refusal of the image.
"""
