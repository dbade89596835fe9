"""Parts of an experiment that are named by where they are imported from: `package.module:name`."""

from __future__ import annotations

import importlib
from typing import Any

from quadriga.platform.errors import UserError, one_line


def load_object(path: str, field: str) -> Any:
    """What `path` names; Python finds the module on its search path, in a Ray worker too.

    Args:
        path: `package.module:name`.
        field: of the experiment, for the error.

    Raises:
        UserError: `path` has another form, the module cannot be imported, or has nothing of that name.
    """
    module, _, name = path.partition(":")
    if not module or not name:
        raise UserError(f"{field}: expected package.module:name, got {path!r}")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{field} {path!r}: {one_line(error)}") from error
