"""What is known of a job before Ray starts."""

import pickle
import subprocess
import sys
from pathlib import Path

from pipeline.engine.checking import check, check_output, make_context
from pipeline.settings import JobSettings
from tests.conftest import write_parquet

ROOT = Path(__file__).parents[2]


def test_the_context_of_a_job_brings_no_torch_into_its_tasks(tmp_path, quick):
    """Load and store tasks unpickle it, and do without torch."""
    manifest = write_parquet(tmp_path / "m.parquet", [{"content_uri": "c", "style_uri": "s"}])
    checked = check(quick, JobSettings(manifest=manifest, output=str(tmp_path / "out")))
    context = make_context(checked, check_output(checked))
    assert context.versions["torch"]
    (tmp_path / "context").write_bytes(pickle.dumps(context))
    code = "import pickle, sys; pickle.load(sys.stdin.buffer); sys.exit('torch' in sys.modules)"
    with (tmp_path / "context").open("rb") as pickled:
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdin=pickled)
