"""What Landlock does not see in its first versions is taken away by other means."""

import os
import tempfile
from pathlib import Path

import pytest
from sandboxes import make

from quadriga.codegen.sandbox import supervisor

EMPTIES = """    import os
    for access in (os.O_RDONLY, os.O_ACCMODE):
        try:
            os.close(os.open({path!r}, access | os.O_TRUNC))
        except OSError:
            pass
    return 2 * x
"""


@pytest.fixture
def second_version(monkeypatch):
    """The sandbox finds Landlock as Linux 5.19 has it."""
    head = "def version() -> int:"
    older = f"{head}\n    return min(2, _version())\n\n\n{head.replace('version', '_version')}"
    modules = [(name, source.replace(head, older)) for name, source in supervisor._modules()]
    monkeypatch.setattr(supervisor, "_modules", lambda: modules)


def test_before_linux_6_2_no_file_can_be_emptied(doubling, second_version):
    with tempfile.TemporaryDirectory() as folder, make("landlock") as sandbox:
        assert sandbox.isolation.landlock <= 2
        os.chmod(folder, 0o755)
        file = Path(folder) / "kept"
        file.write_text("content")
        file.chmod(0o666)
        assert sandbox.run(doubling, EMPTIES.format(path=str(file))).passed
        assert file.read_text() == "content"
