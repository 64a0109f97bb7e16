"""The theories, one topic a file: pure functions that read like the papers. ``depthwidth.formulas()`` finds them all."""
