"""Mathematics without a theory: quadrature, interpolation, softmax integrals, the expression parser."""
