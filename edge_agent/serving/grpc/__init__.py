"""The gRPC server: `hilum.v1.Detector` and the standard health service.

Each servicer converts the request, calls the detection service and converts the result.
"""
