"""The smallest evidence that suffices for a classifier's decision."""
