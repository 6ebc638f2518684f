"""What the model says when only a mask is present."""
