"""What the site adds to docs/: folders in the navigation, the API reference, CONTRIBUTING."""

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("configs", "trackers", "models", "pipeline")
REFERENCE = "reference/"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the pages of every folder in the navigation; leave out pages that are not written."""
    config.nav = _expand(config.nav or [])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every room of the package, and CONTRIBUTING.md, which lies at the top."""
    for page, text in _reference().items():
        files.append(File.generated(config, page, content=text))
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "contributing.md", content=text))
    return files


def _expand(entries: list[Any]) -> list[Any]:
    expanded: list[Any] = []
    for entry in entries:
        title, target = next(iter(entry.items())) if isinstance(entry, dict) else (None, entry)
        if isinstance(target, list):
            expanded.append({title: _expand(target)})
        elif target.endswith("/"):
            pages = _pages(target)
            expanded += [{title: pages}] if title else pages
        elif target == "contributing.md" or (ROOT / "docs" / target).exists():
            expanded.append(entry)
    return expanded


def _pages(folder: str) -> list[str]:
    if folder == REFERENCE:
        return list(_reference())
    return sorted(f"{folder}{path.name}" for path in (ROOT / "docs" / folder).glob("*.md"))


def _reference() -> dict[str, str]:
    """Page -> text: the public surface first, then a page a room with all of its modules."""
    pages = {f"{REFERENCE}marey.md": "# marey\n\n::: marey\n"}
    for room in sorted(_rooms()):
        modules = sorted(p.stem for p in (ROOT / room).glob("[!_]*.py"))
        name = room.replace("/", ".")
        text = "".join(f"::: marey.{m}\n\n" for m in (name, *(f"{name}.{m}" for m in modules)))
        pages[f"{REFERENCE}{name}.md"] = f"# {name}\n\n{text}"
    return pages


def _rooms() -> list[str]:
    found = [name for name in ROOMS if list((ROOT / name).glob("[!_]*.py"))]
    for name in ROOMS:
        found += [
            f"{name}/{path.name}"
            for path in (ROOT / name).iterdir()
            if (path / "__init__.py").exists()
        ]
    return found
