"""Files that are written whole, for jobs: :mod:`depthwidth.files` writes them."""

from depthwidth.files import open_whole, write_whole

__all__ = ["open_whole", "write_whole"]
