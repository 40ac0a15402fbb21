"""How good a detector is on a labelled set: figures, their intervals, and what they rest on.

detectors    pixels -> findings, through the clinic's own code
matching     findings beside labelled boxes, by the COCO library
metrics, froc, image_level, calibration, points    what is computed from that
bootstrap    how far each figure would move on another set of the same kind

Every figure is a pure function of labelled entries and what was found on them. Each is computed for
many re-drawn sets at once: a set is a row of counts, saying how often it holds each image.
"""
