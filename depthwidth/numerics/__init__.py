"""General numerical methods: quadrature, interpolation, root finding, averages over softmax, the expression parser."""
