"""Plain data as YAML text."""

from __future__ import annotations

import json
import re
from typing import Any


def as_yaml(value: Any, indent: str = "") -> str:
    """Mappings and lists as YAML blocks; scalars and lists of numbers as JSON, of which YAML is a superset."""
    lines = []
    items = value.items() if isinstance(value, dict) else ((None, inner) for inner in value)
    for key, inner in items:
        head = "- " if key is None else f"{json.dumps(key) if not re.fullmatch('[A-Za-z_]+', key) else key}: "
        nested = isinstance(inner, dict) or (isinstance(inner, list) and any(isinstance(one, (dict, list)) for one in inner))
        if not (nested and inner):
            lines.append(f"{indent}{head}{json.dumps(inner)}\n")
        elif key is None:
            # The first line of the entry stands behind its dash.
            lines.append(f"{indent}- {as_yaml(inner, indent + '  ').lstrip(' ')}")
        else:
            lines.append(f"{indent}{head.rstrip()}\n{as_yaml(inner, indent + '  ')}")
    return "".join(lines)
