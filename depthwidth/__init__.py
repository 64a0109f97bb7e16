"""depthwidth."""
