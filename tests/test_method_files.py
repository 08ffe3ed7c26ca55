"""Can a method be read in its file: its equation, and the page that tells the rest?"""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

from marey.models.method import methods

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", sorted(methods()))
def test_a_methods_file_states_its_equation_and_names_its_page(name: str) -> None:
    module = importlib.import_module(methods()[name].__module__)
    text = ast.get_docstring(ast.parse(inspect.getsource(module))) or ""
    assert re.search(r"^    .*= ", text, re.MULTILINE), "no equation in the file's docstring"
    pages = re.findall(r"docs/methods/\w+\.md", text)
    assert len(pages) == 1, "the file's docstring names one page"
    page = ROOT / pages[0]
    assert page.is_file()
    file = Path(module.__file__ or "").stem
    assert f"`{file}.py`" in (told := page.read_text(encoding="utf-8")) or f"/{file}.py" in told


def test_every_page_is_of_some_method() -> None:
    named = {
        page
        for method in methods().values()
        for page in re.findall(
            r"docs/methods/(\w+)\.md",
            inspect.getdoc(importlib.import_module(method.__module__)) or "",
        )
    }
    assert {page.stem for page in (ROOT / "docs" / "methods").glob("*.md")} == named
