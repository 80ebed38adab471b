"""What is said in Python where a package that an extra brings is missing."""

import subprocess
import sys

CODE = """
import sys
sys.modules.update(dict.fromkeys(["transformers", "lmms_eval"]))
import importlib, torch, pact_ext

model = torch.nn.Identity()
for call in (
    lambda: pact_ext.apply(model),
    lambda: pact_ext.handle_of(model),
    lambda: pact_ext.remove(model),
    lambda: importlib.import_module("pact_ext.models.loading").load("x"),
    lambda: importlib.import_module("pact_ext.models.lmms_eval"),
):
    try:
        call()
    except ImportError as error:
        print(error.name, error, sep=": ")
"""


def test_a_missing_package_is_named_with_its_remedy(tmp_path):
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    needs = "transformers 4.57 or newer: pip install 'pact-ext[models]'"
    *of_transformers, of_lmms_eval = done.stdout.splitlines()
    assert of_transformers == [
        *[f"transformers: pact_ext.{name} needs {needs}" for name in ("apply", "handle_of", "remove")],
        f"transformers: models of Hugging Face need {needs}",
    ], done.stderr
    assert "pip install lmms-eval" in of_lmms_eval
