"""How large is the package: `python benchmarks/size.py`.

Lines of code are those that hold a token of Python other than a comment or a docstring.
"""

from __future__ import annotations

import ast
import tokenize
from collections import Counter
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "camscope"
_SHORT = 5
_BLANK = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}


def main() -> None:
    """Print lines of code per package, and counts of files and functions."""
    lines: Counter[str] = Counter()
    functions: list[ast.FunctionDef] = []
    files = sorted(SOURCE.rglob("*.py"))
    for path in files:
        tree = ast.parse(path.read_text("utf-8"))
        relative = path.relative_to(SOURCE)
        lines[relative.parts[0] if len(relative.parts) > 1 else "."] += len(code_lines(path, tree))
        functions += [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    private = [f for f in functions if f.name.startswith("_") and not f.name.startswith("__")]
    short = [f for f in private if (f.end_lineno or f.lineno) - f.lineno < _SHORT]
    for package, count in sorted(lines.items()):
        print(f"{package:12} {count:6,}")
    print(f"{'all':12} {sum(lines.values()):6,} lines of code in {len(files)} files")
    print(f"{len(functions):,} functions, {len(private):,} private, {len(short):,} of these under {_SHORT} lines")


def code_lines(path: Path, tree: ast.Module) -> set[int]:
    """Return the numbers of the lines that hold code."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs: set[int] = set()
    for node in ast.walk(tree):
        for one in getattr(node, "body", []) if isinstance(node, documented) else []:
            if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant) and isinstance(one.value.value, str):
                docs.update(range(one.lineno, (one.end_lineno or one.lineno) + 1))
    with path.open("rb") as file:
        tokens = [token for token in tokenize.tokenize(file.readline) if token.type not in _BLANK]
    return {line for t in tokens for line in range(t.start[0], t.end[0] + 1)} - docs


if __name__ == "__main__":
    main()
