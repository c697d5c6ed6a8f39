"""Whole jobs over data sets as people have them: Hugging Face's Parquet, tars listed in a CSV."""

import io
import tarfile
from collections import Counter

import datasets
import pytest
from PIL import Image

from pipeline.data.storage import file_parts
from pipeline.engine.audit.audit import run_audit
from pipeline.engine.job import run_job
from pipeline.settings import JobSettings, StyleSettings
from tests.conftest import image_bytes
from tests.outputs import check_images, records_of

pytestmark = pytest.mark.usefixtures("local_ray")

TINY = StyleSettings(weights="compact", image_size=64, iterations=2, scales=1)


def test_a_job_over_a_hugging_face_folder_and_one_over_a_tar(tmp_path):
    features = datasets.Features(
        {
            "content_image": datasets.Image(),
            "style_image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    columns = {
        "content_image": [Image.open(io.BytesIO(image_bytes(seed, 64, 64))) for seed in range(2)],
        "style_image": [{"bytes": image_bytes(9, 64, 64), "path": None}] * 2,
        "label": [0, 1],
    }
    whole = datasets.Dataset.from_dict(columns, features=features)
    (tmp_path / "data").mkdir()
    for index in range(2):
        name = f"train-{index:05d}-of-00002.parquet"
        whole.shard(2, index, contiguous=True).to_parquet(tmp_path / "data" / name)
    broken = {**columns, "content_image": [{"bytes": b"no image", "path": "x.png"}] * 2}
    one = datasets.Dataset.from_dict(broken, features=features).select([0])
    one.to_parquet(tmp_path / "data" / "x.parquet")

    output = tmp_path / "out"
    job = JobSettings(manifest=str(tmp_path / "data"), output=str(output), actors=1)
    summary = run_job(TINY, job)
    assert summary["ok"] == 2
    records = records_of(str(output))
    check_images(str(output), records)
    found = {row["content_uri"].rpartition("/")[2]: row for row in records.values()}
    assert len(found) == 3
    place = "#image=content_image&group=0&row=0"
    assert found[f"train-00001-of-00002.parquet{place}"]["label"] == "1"
    assert found[f"x.parquet{place}"]["error_class"] == "not_an_image"
    assert place in found[f"x.parquet{place}"]["error_message"]
    assert run_audit(job).faults == Counter()
    assert run_job(TINY, job)["ok"] == 2

    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, data in (("a.png", image_bytes(3, 64, 64)), ("s.png", image_bytes(4, 64, 64))):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    content, style = file_parts.members_of_tar(str(tmp_path / "x.tar"), {})
    style_uri = file_parts.tar_part("x.tar", *style)
    lines = [
        "content_uri,style_uri,pair_id,iterations",
        f"{file_parts.tar_part('x.tar', *content)},{style_uri},whole,1",
        f"{file_parts.tar_part('x.tar', 'cut', content.offset, 10**6)},{style_uri},cut,",
        f",{style_uri},null,",
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    output = tmp_path / "out2"
    job = JobSettings(manifest=str(tmp_path / "pairs.csv"), output=str(output), actors=1)
    run_job(TINY, job)
    found = records_of(str(output))
    assert found["whole"]["status"] == "ok"
    assert found["whole"]["evaluations"] == 1
    assert "the tar is cut off" in found["cut"]["error_message"]
    assert found["null"]["error_message"].startswith("manifest line 4: content_uri: is null")
    assert run_audit(job).faults == Counter()
