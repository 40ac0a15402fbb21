"""Synthetic radiographs with findings: painted chests or real backgrounds, as data sets or DICOM.

Everything is a pure function of a seed, so any number of processes make the same images.
"""
