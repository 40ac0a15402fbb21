"""Evaluation of detectors on labelled sets: metrics, their confidence intervals, and a report.

detectors    pixels -> findings, through the edge agent's own code
matching     findings matched with labelled boxes, by the COCO library
metrics, froc, image_level, calibration, operating_points    computed from the matches
bootstrap    confidence intervals by resampling images

Every metric is a pure function of labelled images and the findings on them. Each is computed for
many resampled sets at once: a set is a row of counts that gives how often it holds each image.
"""
