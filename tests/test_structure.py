"""Whether the house is in order: imports flow one way, light commands stay light."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("configs", "trackers", "models", "pipeline")
ROOMS = """
pipeline.cli
pipeline.explore
pipeline.export
pipeline.report
pipeline.training
pipeline.evaluate
pipeline.embedding pipeline.mining
pipeline.stream
pipeline.sampling
pipeline.data
pipeline.video pipeline.synthetic
pipeline.runtime
models.temporal models.context models.contrastive
models.method models.depth
models.objectives
models.encoders
models.augmentation
models.batch trackers
configs
"""
"""Top to bottom: a file imports from its own room and from those in lines below."""
FLOOR = {room: n for n, line in enumerate(ROOMS.split("\n")) for room in line.split()}


def _modules() -> dict[str, Path]:
    paths = [p for package in PACKAGES for p in (ROOT / package).rglob("*.py")]
    return {
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
        for p in paths
    }


def _room(module: str) -> str:
    return next((r for r in FLOOR if f"{module}.".startswith(f"{r}.")), "")


def _imports(path: Path) -> set[str]:
    """The modules of ours that a file imports, without `marey.`; a bare one keeps a `!`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    ours = {name for name in names if name.split(".")[0] in ("marey", *PACKAGES)}
    return {n.removeprefix("marey.") if n.startswith("marey") else f"!{n}" for n in ours}


def test_imports_flow_one_way():
    modules = {m: p for m, p in _modules().items() if m not in PACKAGES}
    assert [m for m in modules if not _room(m)] == [], "files that are in no room"
    arrows = [(m, n) for m, p in modules.items() for n in _imports(p) if n not in ("marey", "")]
    back = [
        f"{m} imports {n}"
        for m, n in arrows
        if (there := _room(n)) and there != _room(m) and FLOOR[there] <= FLOOR[_room(m)]
    ]
    assert back == []
    assert [f"{m} imports {n[1:]}" for m, n in arrows if n.startswith("!")] == []


def test_no_import_runs_in_a_circle():
    modules = _modules()
    edges = {m: {n for n in _imports(p) if n in modules and n != m} for m, p in modules.items()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail, module])
        if module not in done:
            for name in edges[module]:
                # a package's own __init__ gathers its modules: not a circle
                if not module.startswith(name + "."):
                    visit(name, (*trail, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def test_no_two_files_share_a_name():
    """Settings apart: `configs/mining.py` holds what can be set in `pipeline/mining/`."""
    places = defaultdict(list)
    for module, path in _modules().items():
        if path.stem not in ("__init__", "__main__") and not module.startswith("configs."):
            places[path.stem].append(module)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_no_loose_file():
    loose = {p.name for p in (ROOT / "pipeline").glob("*.py")}
    assert loose == {"__init__.py"}
    assert {p.name for p in (ROOT / "models").glob("*.py")} == {
        "__init__.py", "batch.py", "method.py",
    }  # fmt: skip


def test_what_benchmarks_import_is_there():
    """They are neither type-checked nor run by the tests."""
    for path in (ROOT / "benchmarks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "marey":
                module = importlib.import_module(node.module or "")
                below = {
                    info.name for info in pkgutil.iter_modules(getattr(module, "__path__", []))
                }
                there = below | set(vars(module))
                assert {alias.name for alias in node.names} <= there, path.name


def test_light_commands_import_neither_torch_nor_ray():
    code = (
        "import sys, marey.pipeline.cli.main as m, marey.pipeline.data.build_index;"
        "m.build_parser();"
        "print([m for m in ('torch', 'ray', 'cv2', 'timm') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_the_pipeline_names_no_method():
    families = ("temporal", "context", "contrastive")
    names = {p.stem for f in families for p in (ROOT / "models" / f).glob("*.py")} - {"__init__"}
    for room in ("training", "stream", "embedding", "mining", "evaluate"):
        for path in (ROOT / "pipeline" / room).glob("*.py"):
            strings = {
                node.value
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
            assert not names & strings, path
