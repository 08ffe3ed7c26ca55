"""Whether the house is in order: imports flow one way, light commands stay light."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("configs", "trackers", "models", "pipeline")

# top to bottom: a module may import from its own layer's package and from those below
LAYERS = [
    {"pipeline.cli"},
    {"pipeline.commands"},
    {"pipeline.demo"},
    {"pipeline.finetune"},
    {
        "pipeline.embed",
        "pipeline.pretext",
        "pipeline.launch",
        "pipeline.report",
        "pipeline.catalogue",
        "pipeline.mine",
        "pipeline.follow",
    },
    {"pipeline.held_out"},
    {"pipeline.train", "pipeline.evaluate"},
    {"pipeline.record", "pipeline.lockstep"},
    {"pipeline.stream", "pipeline.ordered", "pipeline.checkpoint", "pipeline.optim"},
    {"pipeline.mining"},
    {"pipeline.decode"},
    {"pipeline.plan"},
    {"pipeline.sampling", "pipeline.source"},
    {"pipeline.stored"},
    {"pipeline.indexing", "pipeline.images", "pipeline.shards", "pipeline.shots", "pipeline.sync"},
    {"pipeline.found"},
    {"pipeline.corpus", "pipeline.engine", "pipeline.doctor", "pipeline.progress"},
    {"pipeline.index"},
    {"pipeline.video", "pipeline.part_notes", "pipeline.row_groups", "pipeline.workers"},
    {"pipeline.claims"},
    {"pipeline.storage", "pipeline.cores"},
    {"models", "trackers"},
    {"configs"},
]


def _modules() -> dict[str, Path]:
    paths = [p for package in PACKAGES for p in (ROOT / package).rglob("*.py")]
    return {
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
        for p in paths
    }


def _layer(module: str) -> tuple[int, str] | None:
    for number, members in enumerate(LAYERS):
        for member in members:
            if module == member or module.startswith(member + "."):
                return number, member
    return None


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.split(".")[0] in PACKAGES}


def test_every_module_has_a_place():
    placeless = [m for m in _modules() if m != "pipeline" and _layer(m) is None]
    assert not placeless


def test_imports_flow_one_way():
    modules = _modules()
    wrong = []
    for module, path in modules.items():
        here = _layer(module)
        for name in _imports(path):
            there = _layer(name)
            if here is None or there is None or here[1] == there[1]:
                continue
            if there[0] <= here[0]:
                wrong.append(f"{module} imports {name}")
    assert not wrong


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


def test_what_benchmarks_import_is_there():
    """They are neither type-checked nor run by the tests."""
    for path in (ROOT / "benchmarks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
                module = importlib.import_module(node.module or "")
                below = {
                    info.name for info in pkgutil.iter_modules(getattr(module, "__path__", []))
                }
                there = below | set(vars(module))
                assert {alias.name for alias in node.names} <= there, path.name


def test_light_commands_import_neither_torch_nor_ray():
    code = (
        "import sys, pipeline.cli, pipeline.indexing; pipeline.cli.build_parser();"
        "print([m for m in ('torch', 'ray', 'cv2', 'timm') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_the_pipeline_names_no_method():
    families = ("temporal", "context", "contrastive")
    names = {p.stem for f in families for p in (ROOT / "models" / f).glob("*.py")} - {"__init__"}
    for part in ("train", "launch", "stream", "plan", "decode", "record", "embed"):
        words = (ROOT / "pipeline" / f"{part}.py").read_text(encoding="utf-8").lower()
        assert not [name for name in names if name in words], part
