"""What synthesis is good for, measured: it segments and classifies for that alone."""
