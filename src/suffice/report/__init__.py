"""Explanations as figures and one HTML file."""
