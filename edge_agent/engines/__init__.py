"""Runs a bundle's model on this machine: bundles, engines, their selection and their self-test."""
