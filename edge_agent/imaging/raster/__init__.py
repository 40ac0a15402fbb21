"""Readers for JPEG, PNG and TIFF files: header first, then pixels, then a radiograph."""
