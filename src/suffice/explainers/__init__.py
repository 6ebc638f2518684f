"""Classifier and image to explanation: one file a method."""
