import io
import json
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import skimage.data
from PIL import ExifTags, Image, ImageCms

from pipeline.data.errors import RowError
from pipeline.data.images import codec, sizing
from tests.conftest import image_bytes

LIMIT = 10_000_000


def saved(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def decode(data: bytes, max_pixels: int = LIMIT) -> np.ndarray:
    image = codec.decode(data, "x", max_pixels)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize(
    ("data", "error_class"),
    [
        (b"", "empty_file"),
        (b"<html>404</html>", "not_an_image"),
        (image_bytes(0, 64, 64)[:-800], "truncated_image"),
        (image_bytes(0, 64, 64, "JPEG")[:-700], "truncated_image"),
        (image_bytes(0, 64, 64)[:20], "not_an_image"),
        (saved(Image.new("RGB", (1, 1)), "PNG"), "image_too_small"),
        (saved(Image.new("RGB", (640, 15)), "PNG"), "image_too_small"),
    ],
)
def test_bad_files_are_row_errors(data, error_class):
    with pytest.raises(RowError) as caught:
        decode(data)
    assert caught.value.error_class == error_class


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    bomb = saved(Image.new("1", (20_000, 20_000)), "PNG")
    assert len(bomb) < 100_000
    with pytest.raises(RowError, match="20000 x 20000 px is more than max_pixels") as caught:
        decode(bomb)
    assert caught.value.error_class == "image_too_large"


def test_an_image_without_room_in_memory_is_a_row_error(monkeypatch):
    def no_room(*_):
        raise MemoryError

    monkeypatch.setattr(codec, "to_rgb", no_room)
    with pytest.raises(RowError, match="x: not enough memory to decode 64 x 48 px") as caught:
        decode(image_bytes(0, 48, 64))
    assert caught.value.error_class == "out_of_memory"


def test_cmyk_becomes_rgb():
    red = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    assert decode(saved(red, "JPEG"))[16, 16] == pytest.approx([255, 0, 0], abs=3)


def test_16_bit_grey_keeps_its_range():
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(32, 0)
    pixels = decode(saved(Image.fromarray(ramp), "PNG"))
    assert pixels[0, :, 0] == pytest.approx(np.linspace(0, 255, 64), abs=1)
    assert (pixels == pixels[..., :1]).all()


def test_float_grey_is_scaled_by_its_own_range():
    ramp = np.linspace(-2, 6, 64, dtype=np.float32)[None].repeat(32, 0)
    pixels = decode(saved(Image.fromarray(ramp), "TIFF"))
    assert (pixels[0, 0, 0], pixels[0, -1, 0]) == (0, 255)


def test_transparency_is_laid_on_white():
    rgba = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert (decode(saved(rgba, "PNG")) == 255).all()
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert decode(saved(palette, "PNG"))[0, 0].tolist() == [10, 20, 30]
    assert decode(saved(palette, "PNG", transparency=1))[0, 0].tolist() == [255, 255, 255]


def test_exif_rotation_is_applied():
    image = Image.new("RGB", (64, 32), "blue")
    image.paste("red", (0, 0, 64, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: turn by 90 degrees clockwise
    pixels = decode(saved(image, "PNG", exif=exif))
    assert pixels.shape == (64, 32, 3)
    assert pixels[32, 31].tolist() == [255, 0, 0]


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (32, 32), color) for color in ("lime", "red")]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data)[0, 0].tolist() == [0, 255, 0]


def test_an_icc_profile_is_followed_and_a_broken_one_ignored():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    image = Image.new("RGB", (32, 32), (200, 100, 50))
    assert decode(saved(image, "PNG", icc_profile=b"nonsense"))[0, 0].tolist() == [200, 100, 50]
    assert decode(saved(image, "PNG", icc_profile=lab)).shape == (32, 32, 3)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert decode(saved(image, "PNG", icc_profile=srgb))[0, 0] == pytest.approx(
        [200, 100, 50], abs=1
    )


def swapped_profile() -> bytes:
    """sRGB's profile with red and blue exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = (132 + profile[132:].index(tag) for tag in (b"rXYZ", b"bXYZ"))
    # An entry in the table of tags: name, offset, length.
    profile[red + 4 : red + 12], profile[blue + 4 : blue + 12] = (
        profile[blue + 4 : blue + 12], profile[red + 4 : red + 12],
    )  # fmt: skip
    return bytes(profile)


def test_an_icc_profile_is_followed_also_where_there_is_alpha():
    profile = swapped_profile()
    rng = np.random.default_rng(0)
    opaque = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
    expected = decode(saved(opaque, "PNG", icc_profile=profile))
    assert np.abs(expected.astype(int) - np.asarray(opaque)[:, :, ::-1]).max() <= 2
    alpha = np.full((32, 32), 255, np.uint8)
    alpha[:8], alpha[8:16] = 0, 128
    rgba = opaque.convert("RGBA")
    rgba.putalpha(Image.fromarray(alpha))
    for file_format in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if file_format == "WEBP" else {}
        found = decode(saved(rgba, file_format, icc_profile=profile, **options))
        np.testing.assert_array_equal(found[16:], expected[16:])
        assert (found[:8] == 255).all()
        half = expected[8:16] * (128 / 255) + 127  # on white
        assert np.abs(found[8:16] - half).max() <= 1
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([0, 0, 0, 200, 50, 20])
    for more in ({}, {"transparency": 0}):
        pixels = decode(saved(palette, "PNG", icc_profile=profile, **more))
        assert pixels[0, 0] == pytest.approx([20, 50, 200], abs=2)
    grey = Image.new("LA", (32, 32), (90, 255))
    assert (decode(saved(grey, "PNG", icc_profile=profile)) == 90).all()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((1000, 500, 512, "long"), (512, 256)),
        ((500, 1000, 512, "long"), (256, 512)),
        ((1000, 500, 256, "short"), (512, 256)),
        ((100, 67, 256, "long"), (256, 176)),
        ((2100, 100, 512, "long"), (512, 32)),
        ((3000, 2000, 32, "long"), (32, 32)),
        ((40, 24, 40, "long"), (32, 32)),
        ((3000, 3000, 6.4, "long"), (32, 32)),
        ((4000, 20, 32, "short"), (6400, 32)),
    ],
)
def test_sizes_keep_the_aspect_in_multiples_of_16(arguments, expected):
    assert sizing.fit_size(*arguments, LIMIT) == expected


def test_a_narrow_image_does_not_become_a_huge_one():
    with pytest.raises(RowError, match="would be 192000000 x 512 px") as caught:
        sizing.fit_size(6_000_000, 16, 512, "short", LIMIT)
    assert caught.value.error_class == "image_too_large"


@pytest.mark.parametrize(
    "arguments", [(4000, 20, 512, "long"), (20, 4000, 512, "long"), (400, 50, 6.4, "short")]
)
def test_an_image_that_would_lose_its_proportions_is_refused(arguments):
    with pytest.raises(RowError, match="no edge may be less than 32") as caught:
        sizing.fit_size(*arguments, LIMIT)
    assert caught.value.error_class == "image_too_small"


def test_rounding_alone_refuses_no_image():
    for size in (32, 64, 256, 512):
        for short in range(24, size + 1):
            assert sizing.fit_size(size, short, size, "long", LIMIT)


def photograph(width: int, height: int) -> Image.Image:
    """A photograph of this size: more than it shows is as fine as its pixels."""
    found = Image.fromarray(skimage.data.astronaut())
    return found.resize((width, height), Image.Resampling.BICUBIC)


def fitted(data: bytes, size: int, *, reduce: bool) -> np.ndarray:
    """The pixels of a picture of ``size`` px, decoded whole or as its decoder may reduce it."""

    def fit(width, height):
        return sizing.fit_size(width, height, size, "long", LIMIT)

    image = codec.decode(data, "x", LIMIT, fit=fit if reduce else None)
    whole = codec.decode(data, "x", LIMIT)
    assert (image.size != whole.size) == reduce
    assert sizing.whole_size(image) == whole.size
    return sizing.resize(image, fit(*sizing.whole_size(image)))


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """PSNR in dB."""
    assert one.shape == other.shape
    return float(-10 * np.log10(np.mean(((one.astype(float) - other) / 255) ** 2)))


@pytest.mark.parametrize("turned", range(1, 9))
def test_a_jpeg_reduced_by_its_decoder_is_the_same_picture_whichever_way_it_is_turned(turned):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turned
    # No side is a multiple of 8: the last pixels of the reduced image reach beyond the picture.
    data = saved(photograph(1041, 777), "JPEG", quality=95, exif=exif)
    assert difference(*(fitted(data, 128, reduce=each) for each in (False, True))) > 40


def test_only_a_jpeg_of_four_times_the_size_is_reduced_and_all_that_it_says_is_followed():
    for size, reduced in ((511, False), (512, True)):
        fitted(saved(photograph(size, size), "JPEG"), 128, reduce=reduced)
    for file_format in ("PNG", "WEBP"):
        fitted(saved(photograph(520, 520), file_format), 128, reduce=False)
    large = photograph(520, 520)
    profiled = saved(large, "JPEG", quality=95, icc_profile=swapped_profile())
    assert difference(*(fitted(profiled, 128, reduce=each) for each in (False, True))) > 40
    plain = fitted(saved(large, "JPEG", quality=95), 128, reduce=True)
    swapped = fitted(profiled, 128, reduce=True).astype(int)
    assert np.abs(plain[:, :, ::-1] - swapped).max() <= 2
    grey = saved(large.convert("L"), "JPEG", quality=95)
    assert difference(*(fitted(grey, 128, reduce=each) for each in (False, True))) > 40
    whole = fitted(profiled, 128, reduce=True)
    assert np.array_equal(fitted(profiled[:-2], 128, reduce=True), whole), "only its end is missing"
    with pytest.raises(RowError, match="520 x 520 px is more than max_pixels"):
        codec.decode(profiled, "x", 260_000, fit=lambda *_: (128, 128))


@pytest.mark.parametrize("file_format", ["png", "jpg", "webp"])
def test_encoded_images_open_again(file_format):
    pixels = decode(image_bytes(3, 48, 64))
    data = codec.encode(pixels, file_format, 95)
    again = decode(data)
    assert again.shape == pixels.shape
    assert np.abs(again.astype(int) - pixels).mean() < (0.01 if file_format == "png" else 4)


@pytest.mark.parametrize("file_format", ["png", "jpg", "webp"])
def test_what_cannot_be_encoded_is_refused_and_nothing_else(file_format):
    for edge in (16_368, 16_384, 65_488, 65_504):
        pixels = np.zeros((32, edge, 3), np.uint8)
        for some in (pixels, pixels.transpose(1, 0, 2)):
            try:
                codec.encode(np.ascontiguousarray(some), file_format, 90)
                codec.check_format(some.shape[1], some.shape[0], file_format)
            except (ValueError, OSError):
                with pytest.raises(RowError, match=rf"of a {file_format} file has at") as caught:
                    codec.check_format(some.shape[1], some.shape[0], file_format)
                assert caught.value.error_class == "image_too_large"


@pytest.mark.parametrize("file_format", ["png", "jpg", "webp"])
def test_an_image_can_say_how_it_was_made(file_format):
    pixels = np.full((32, 48, 3), 77, np.uint8)
    origin = {"software": "ours 1", "pair_id": "näh\x1b", "settings": {"seed": 3}, "loss": 1e-7}
    plain = codec.encode(pixels, file_format, 95)
    data = codec.encode(pixels, file_format, 95, origin)
    assert data == codec.encode(pixels, file_format, 95, origin)
    assert told(data) == ("ours 1", origin)
    assert np.array_equal(opened(data), opened(plain))
    long = {**origin, "style_uri": ["x" * 1000] * 100, "content_uri": "y" * 50_000}
    assert told(codec.encode(pixels, file_format, 95, long))[1] == {
        **origin, "content_uri": "y" * 50_000
    }  # fmt: skip


def opened(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def told(data):
    """A file's embedded software and origin; our own decoder must read the file, too."""
    codec.decode(data, "x", 10**6)
    image = Image.open(io.BytesIO(data))
    if image.format == "PNG":
        return image.text["Software"], json.loads(image.text["Description"])
    exif = image.getexif()
    text = exif[ExifTags.Base.ImageDescription]
    return exif[ExifTags.Base.Software], json.loads(text)


def test_pillow_is_left_as_the_process_has_it(monkeypatch):
    """They are restored whether files are read or refused, by any number of threads."""
    large = saved(Image.new("L", (64, 64)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64)  # Pillow would refuse it
    filters = list(warnings.filters)
    seen, opened = [], Image.open

    def watched(*given, **named):
        seen.append((Image.MAX_IMAGE_PIXELS, len(warnings.filters) - len(filters)))
        barrier.wait(60)
        return opened(*given, **named)

    monkeypatch.setattr(Image, "open", watched)
    barrier = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(decode, large)
        second = pool.submit(decode, large[:40])
        assert first.result().shape == (64, 64, 3)
        assert isinstance(second.exception(), RowError)
    assert seen == [(None, 1)] * 2
    assert Image.MAX_IMAGE_PIXELS == 64
    assert list(warnings.filters) == filters


def test_no_import_changes_pillow_or_what_is_warned_of():
    script = """
import warnings
from PIL import Image
before = Image.MAX_IMAGE_PIXELS
import pipeline.data.images.codec
assert Image.MAX_IMAGE_PIXELS == before
assert not [each for each in warnings.filters if "PIL" in str(each)], warnings.filters
"""
    subprocess.run([sys.executable, "-c", script], check=True)
