"""Decoders for compressed pixels: JPEG, JPEG-LS headers, JPEG 2000 and HTJ2K.

Each module reads what a codestream declares before a native decoder sees it, and turns a decoder's
complaint into a refusal of the image.
"""
