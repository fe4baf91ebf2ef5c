"""The walls between the rooms: who may import whom, and what nobody may call. Read from the source."""

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtimes.package import agent_files

ROOT = Path(__file__).parents[1]
ROOMS = ("toolkit", "exporters", "runtimes", "benchmarks")
# A device reads bundles and runs the agent; neither may need more than is there.
ON_DEVICE = tuple(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in agent_files()
)
BUNDLE_READER = ("exporters.bundle", "toolkit", "toolkit.errors", "toolkit.files", "toolkit.json_dataclass")
DEVICE_LIBRARIES = {"runtimes.engine": {"numpy"}, "runtimes.latency": {"numpy"},
                    "runtimes.quality": {"numpy"}, "runtimes.golden": {"numpy"},
                    "runtimes.executorch": {"numpy", "executorch", "torch"},
                    "runtimes.genai": {"numpy", "onnxruntime_genai"}}  # fmt: skip
SEES_ALL = (
    "toolkit.pipeline", "toolkit.bundling", "toolkit.measuring", "toolkit.ondevice", "toolkit.fleet.bundles",
    "toolkit.run_report", "toolkit.sweep", "toolkit.commands",
)  # fmt: skip
# Programs at the very end: they may see everything, and nobody sees them.
STUDIES = "benchmarks.studies"


@dataclass(frozen=True)
class Import:
    """One import: where it stands, and the module that it names, with the name taken from it."""

    module: str
    line: int
    target: str
    name: str | None

    def inside(self, *places: str) -> bool:
        """Whether it reaches one of `places` (a module or package) or anything below it."""
        named = {self.target, f"{self.target}.{self.name}"}
        return any(name == place or name.startswith(f"{place}.") for name in named for place in places)

    def __str__(self) -> str:
        taken = f" ({self.name})" if self.name else ""
        return f"{self.module}, line {self.line}: {self.target}{taken}"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {
    module_name(path): ast.parse(path.read_text(encoding="utf-8"))
    for room in ROOMS
    for path in sorted((ROOT / room).rglob("*.py"))
}


def imports(*modules: str) -> list[Import]:
    """Every import of `modules` and of what is below them, those in functions too."""
    found = []
    for module, tree in TREES.items():
        if not any(module == each or module.startswith(f"{each}.") for each in modules):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found += [Import(module, node.lineno, alias.name, None) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module}, line {node.lineno}: a relative import hides its room"
                found += [Import(module, node.lineno, node.module or "", alias.name) for alias in node.names]
    return found


def calls(tree: ast.Module) -> list[tuple[str, ast.Call]]:
    """Every call with the dotted name of what is called."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def report(faults) -> str:
    return "\n".join(map(str, faults))


def test_all_rooms_were_read():
    assert {module.partition(".")[0] for module in TREES} == set(ROOMS)
    assert set(ON_DEVICE) <= set(TREES)
    assert {"runtimes.genai", "runtimes.executorch", "exporters.bundle"} <= set(ON_DEVICE)
    assert len(imports(*ROOMS)) > 500
    by_hand = Import("m", 1, "toolkit", "finetune")
    assert by_hand.inside("toolkit.finetune") and not by_hand.inside("toolkit.fine")


def test_exporters_know_nothing_of_training_nor_of_the_rooms_behind_them():
    beyond = ("toolkit.augment", "toolkit.finetune", "toolkit.pipeline", "toolkit.commands", "toolkit.cli")
    faults = [each for each in imports("exporters") if each.inside(*beyond, "benchmarks", "runtimes")]
    assert not faults, report(faults)


def test_of_exporters_the_runtimes_know_the_bundle_reader_alone():
    faults = [
        each
        for each in imports("runtimes")
        if each.inside("exporters", "benchmarks", "toolkit")
        and not each.inside(
            "exporters.bundle",
            "toolkit.errors",
            "toolkit.files",
            "toolkit.native_output",
            "toolkit.progress",
        )
    ]
    assert not faults, report(faults)


def test_of_runtimes_only_the_torch_engine_and_executorchs_import_torch():
    """ExecuTorch's Python runtime takes and gives torch tensors."""
    heavy = ("torch", "transformers", "peft", "safetensors", "optimum", "onnx", "onnxscript")
    with_torch = ("runtimes.torch_engine", "runtimes.executorch")
    faults = [each for each in imports("runtimes") if each.inside(*heavy) and each.module not in with_torch]
    assert not faults, report(faults)


@pytest.mark.parametrize("module", ON_DEVICE)
def test_what_a_device_needs_is_the_standard_library_and_the_runtime(module):
    faults = [
        each
        for each in imports(module)
        if each.module == module
        and each.target.partition(".")[0] not in sys.stdlib_module_names
        and each.target.partition(".")[0] not in DEVICE_LIBRARIES.get(module, set())
        and each.target not in ON_DEVICE
        and f"{each.target}.{each.name}" not in ON_DEVICE
    ]
    assert not faults, report(faults)


def test_the_bundle_reader_needs_the_standard_library_alone():
    for module in BUNDLE_READER:
        for each in imports(module):
            if each.module == module:
                outside = each.target.partition(".")[0] not in sys.stdlib_module_names
                assert not outside or each.inside(*BUNDLE_READER[1:]), str(each)


def test_the_agent_never_loads_what_is_not_on_a_device():
    """The same at run time: a device has numpy and the runtime, not click, yaml, rich or torch."""
    import subprocess

    program = (
        "import sys\n"
        "class Wall:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.partition('.')[0] in {'torch', 'transformers', 'click', 'yaml', 'rich'}:\n"
        "            raise ImportError('not on a device: ' + name)\n"
        "sys.meta_path.insert(0, Wall())\n"
        "import runtimes.agent, runtimes.genai, exporters.bundle\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_benchmarks_know_nothing_of_training_exports_or_commands():
    beyond = ("toolkit.pipeline", "toolkit.commands", "toolkit.finetune", "toolkit.augment", "toolkit.cli")
    faults = [
        each
        for each in imports("benchmarks")
        if each.inside(*beyond, "exporters", "torch", "transformers")
        and not each.inside("exporters.bundle")
        and not each.module.startswith(STUDIES)
    ]
    assert not faults, report(faults)


def test_nobody_imports_a_study():
    faults = [
        each for each in imports(*ROOMS) if each.inside(STUDIES) and not each.module.startswith(STUDIES)
    ]
    assert not faults, report(faults)


def test_in_the_toolkit_only_pipeline_and_commands_look_into_other_rooms():
    faults = [
        each
        for each in imports("toolkit")
        if each.inside("exporters", "runtimes", "benchmarks") and not each.module.startswith(SEES_ALL)
    ]
    assert not faults, report(faults)


def test_nothing_but_the_command_line_imports_the_command_line():
    allowed = ("toolkit.cli", "toolkit.commands", "toolkit.__main__", "toolkit.reference", STUDIES)
    faults = [
        each
        for each in imports(*ROOMS)
        if each.inside("toolkit.commands", "toolkit.cli", "click") and not each.module.startswith(allowed)
    ]
    assert not faults, report(faults)


def test_only_commands_print():
    faults = [
        f"{module}, line {node.lineno}: print"
        for module, tree in TREES.items()
        for name, node in calls(tree)
        if name == "print" and not module.startswith("toolkit.commands")
    ]
    assert not faults, report(faults)


def test_nothing_is_unpickled():
    picklers = ("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
    faults: list[object] = [each for each in imports(*ROOMS) if each.inside(*picklers)]
    for module, tree in TREES.items():
        for name, node in calls(tree):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            unsafe = (
                name.endswith(
                    ("torch.load", "torch.jit.load", "np.load", "numpy.load", "load_pickle", "yaml.load")
                )
                or keywords.get("allow_pickle", "False") != "False"
                or keywords.get("use_safetensors", "True") != "True"
                or keywords.get("weights_only", "True") != "True"
            )
            if unsafe:
                faults.append(f"{module}, line {node.lineno}: {name}")
    assert not faults, report(faults)


def test_nothing_runs_through_a_shell_or_out_of_a_text():
    faults = []
    for module, tree in TREES.items():
        for name, node in calls(tree):
            shell = any(keyword.arg == "shell" for keyword in node.keywords)
            trusting = any(
                keyword.arg == "trust_remote_code" and ast.unparse(keyword.value) != "False"
                for keyword in node.keywords
            )
            called = name in {
                "eval",
                "exec",
                "compile",
                "__import__",
                "os.system",
                "os.popen",
                "runpy.run_path",
            }
            if shell or trusting or called or name.startswith(("os.spawn", "subprocess.getoutput")):
                faults.append(f"{module}, line {node.lineno}: {name}")
    assert not faults, report(faults)


def test_models_and_tokenizers_are_loaded_without_their_repositorys_code():
    """Left to itself transformers asks on the terminal whether to run it."""
    faults = [
        f"{module}, line {node.lineno}: {name}"
        for module, tree in TREES.items()
        for name, node in calls(tree)
        if name.startswith("Auto") and name.endswith(".from_pretrained")
        and not any(keyword.arg == "trust_remote_code" for keyword in node.keywords)
    ]  # fmt: skip
    assert not faults, report(faults)


def test_no_assert_checks_input():
    """`python -O` drops assertions; what users give is checked with errors that say what to do."""
    faults = [
        f"{module}, line {node.lineno}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
    ]
    assert not faults, report(faults)
