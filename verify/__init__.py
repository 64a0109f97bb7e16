"""Jobs that train real transformers to check the predictions of :mod:`depthwidth`."""
