"""The sandbox stands apart: nothing of the gateway is in it, and nothing heavy."""

import ast
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "gateway/sandbox"


def imported_modules(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(node.module or "")
    return found


def test_imports_itself_and_the_standard_library_only() -> None:
    strangers = {
        f"{path.name}: {module}"
        for path in PACKAGE.glob("*.py")
        for module in imported_modules(path)
        if not module.startswith("gateway.sandbox.")
        and module.partition(".")[0] not in sys.stdlib_module_names
    }

    assert strangers == set()
