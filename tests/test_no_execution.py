"""No file that is read is ever executed: the code has no call that could do it."""

import ast

import pytest
from conftest import ROOT

RUNS_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
PLAIN_YAML = {"safe_load", "safe_load_all", "dump", "safe_dump"}


def dangers(code, loaders=()):
    """The expressions by which what a file holds could become code that runs."""
    for node in ast.walk(code):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                names = {(node.module or "").split(".")[0]}
            if names & RUNS_CODE:
                yield ast.unparse(node)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        module, _, function = name.rpartition(".")
        safe = name not in CALLS and given.get("shell", "False") == "False"
        safe &= given.get("allow_pickle", "False") == "False"
        if name in ("np.load", "numpy.load"):
            safe &= "allow_pickle" in given
        if module == "yaml" and "load" in function:
            safe &= function in PLAIN_YAML or given.get("Loader") in loaders
        if not safe:
            yield ast.unparse(node)


@pytest.mark.parametrize("path", [*ROOT.glob("fer_jax/**/*.py"), *ROOT.glob("bin/*")])
def test_nothing_that_is_read_is_executed(path):
    # Its own name for a loader counts if that is one of PyYAML's safe ones.
    code = ast.parse(path.read_text())
    loaders = {
        node.name
        for node in ast.walk(code)
        if isinstance(node, ast.ClassDef)
        and [ast.unparse(base) for base in node.bases] == ["yaml.SafeLoader"]
    }
    assert list(dangers(code, loaders | {"yaml.SafeLoader"})) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_the_search_finds_what_it_looks_for(text):
    assert list(dangers(ast.parse(text))) == [text]
