"""The HTTP server: the JSON API, the viewer's files, metrics and probes.

Each endpoint converts the request, calls the detection service and converts the result.
"""
