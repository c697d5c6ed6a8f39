import os

import braceexpand
import pytest

from pipeline.data.storage import files, filesystems, listing
from pipeline.data.storage.listing import ListingError, iterate_files

FILES = ("a.jpg", "train/cat/1.jpg", "train/cat/2.png", "train/dog/3.jpg", "val/cat/4.jpg")


def keys(uri, options=None):
    return sorted(file.key for file in iterate_files(str(uri), options or {}))


@pytest.fixture
def tree(tmp_path):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


@pytest.fixture
def roots(tree, s3):
    """The same files at three places: (uri, storage options)."""
    options, bucket = s3
    fs, _ = filesystems.filesystem("s3://x", options)
    memory, _ = filesystems.filesystem("memory://x", {})
    for name in FILES:
        fs.pipe_file(f"{bucket}/data/{name}", b"x")
        memory.pipe_file(f"/{bucket}/data/{name}", b"x")
    fs.pipe_file(f"{bucket}/data/train/", b"")  # a console's folder marker
    fs.pipe_file(f"{bucket}/database/other.jpg", b"x")
    yield [(str(tree), {}), (f"s3://{bucket}/data", options), (f"memory://{bucket}/data", {})]
    memory.rm(f"/{bucket}", recursive=True)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", FILES),
        ("/", FILES),
        ("/train", ("cat/1.jpg", "cat/2.png", "dog/3.jpg")),
        ("/**/*.jpg", [name for name in FILES if name.endswith(".jpg")]),
        ("/*.jpg", ["a.jpg"]),
        ("/tr*/*/*.jpg", ["train/cat/1.jpg", "train/dog/3.jpg"]),
        ("/train/[cx]at/?.*", ["cat/1.jpg", "cat/2.png"]),
        ("/train/**/3.jpg", ["dog/3.jpg"]),
        ("/train/cat/1.jpg", ["1.jpg"]),
        ("/*.gif", []),
    ],
)
def test_folders_globs_and_files_mean_the_same_everywhere(roots, pattern, expected):
    for root, options in roots:
        file_names = list(iterate_files(root + pattern, options))
        assert sorted(file.key for file in file_names) == sorted(expected), root
        for file in file_names:
            assert files.read_bytes(file.uri, options) == b"x"


def test_a_page_of_keys_is_asked_for_when_it_is_wanted(s3):
    options, bucket = s3
    fs, _ = filesystems.filesystem("s3://x", options)
    names = [f"{bucket}/flat/{index:03d}.jpg" for index in range(120)]
    fs.pipe(dict.fromkeys(names, b""))
    file_names = iterate_files(f"s3://{bucket}/flat", options)
    assert next(file_names).key == "000.jpg"
    fs.rm_file(names[119])  # on the third page of 50, which has not been requested yet
    assert [file.key for file in file_names] == [f"{index:03d}.jpg" for index in range(1, 119)]


def test_what_is_not_there_is_said(tmp_path, s3):
    options, bucket = s3
    for uri in (f"{tmp_path}/none", f"s3://{bucket}/none", f"{tmp_path}/none/*.jpg"):
        with pytest.raises(ListingError, match="there is no such file or folder"):
            keys(uri, options)
    with pytest.raises(ListingError, match="cannot be listed: "):
        keys("nosuch://x/y")


@pytest.mark.parametrize("uri", ["https://u:secret@host/x/", "simplecache::s3://b/x"])
def test_what_cannot_go_into_a_manifest_is_refused(uri):
    with pytest.raises(ListingError, match="cannot go into a manifest") as caught:
        keys(uri)
    assert "secret" not in str(caught.value)


def test_a_folder_may_be_called_like_a_glob(tmp_path):
    (tmp_path / "holiday [2020]").mkdir()
    (tmp_path / "holiday [2020]" / "x.jpg").write_bytes(b"x")
    assert keys(tmp_path / "holiday [2020]") == ["x.jpg"]


def test_links_are_followed_but_not_in_circles(tree):
    (tree / "train" / "bird").symlink_to(tree / "val" / "cat")
    (tree / "train" / "cat" / "up").symlink_to(tree)
    (tree / "train" / "cat" / "gone.jpg").symlink_to(tree / "nowhere.jpg")
    found = keys(tree / "train")
    assert "bird/4.jpg" in found
    assert "cat/gone.jpg" in found
    assert len(found) < 20
    assert "cat/up/a.jpg" in found


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_not_passed_over(tree):
    (tree / "val").chmod(0)
    try:
        with pytest.raises(ListingError, match="a folder may not be listed"):
            keys(tree)
    finally:
        (tree / "val").chmod(0o700)


def test_a_listing_leaves_the_session_of_others_as_it_is(s3):
    """File systems of equal options share one session, and others read the times of responses."""
    options, bucket = s3
    fs, _ = filesystems.filesystem("s3://x", options)
    for name in ("a", "b"):
        fs.pipe_file(f"{bucket}/{name}", b"x")
    factory = fs.session.get_component("response_parser_factory")
    found = iterate_files(f"s3://{bucket}", options)
    next(found)  # the listing has begun
    assert factory.create_parser("rest-xml")._timestamp_parser is not str
    assert len(list(found)) == 1
    assert factory.create_parser("rest-xml")._timestamp_parser is not str


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ("x-{08..11}.tar", ["x-08.tar", "x-09.tar", "x-10.tar", "x-11.tar"]),
        ("x-{8..10}.tar", ["x-8.tar", "x-9.tar", "x-10.tar"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{train,val}/{0..1}", ["train/0", "train/1", "val/0", "val/1"]),
        ("{a,}b", ["ab", "b"]),
        ("{}{a}{0..}", ["{}{a}{0..}"]),
        ("{000..099}", [f"{number:03d}" for number in range(100)]),
    ],
)
def test_braces_stand_for_what_a_shell_and_webdataset_take_them_for(pattern, texts):
    assert list(listing.expand_braces(pattern)) == texts
    if "{}" not in pattern and "," not in pattern:
        assert list(braceexpand.braceexpand(pattern)) == texts


def test_braces_list_their_files_in_order_with_keys_below_the_folder_before_them(tmp_path):
    for name in ("train/x-0.tar", "train/x-1.tar", "val/x-0.tar", "val/x-1.tar", "{0..1}.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = list(listing.iterate_files(f"{tmp_path}/{{val,train}}/x-{{0..1}}.tar", {}))
    assert [file.key for file in found] == [
        "val/x-0.tar", "val/x-1.tar", "train/x-0.tar", "train/x-1.tar",
    ]  # fmt: skip
    assert found[0].uri == f"{tmp_path}/val/x-0.tar"
    globs = list(listing.iterate_files(f"{tmp_path}/{{train,val}}/*-0.tar", {}))
    assert [file.key for file in globs] == ["train/x-0.tar", "val/x-0.tar"]
    (whole,) = listing.iterate_files(f"{tmp_path}/{{0..1}}.tar", {})
    assert whole.key == "{0..1}.tar", "a file that is really called so"
    with pytest.raises(listing.ListingError, match=r"x-2\.tar: there is no such.*it is one of .*{"):
        list(listing.iterate_files(f"{tmp_path}/train/x-{{0..5}}.tar", {}))


def test_braces_on_s3(s3):
    options, bucket = s3
    for number in range(3):
        files.write_bytes(f"s3://{bucket}/train-{number:03d}.tar", b"x", options)
    found = list(listing.iterate_files(f"s3://{bucket}/train-{{000..002}}.tar", options))
    assert [file.key for file in found] == [f"train-{number:03d}.tar" for number in range(3)]
