"""Pictures as people have them: what each says of itself is what is read.

``faults/`` holds one file of each kind. ``ref.png`` and ``refgrey.png`` are what they show.
"""

import io
import itertools
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.data.errors import RowError
from pipeline.data.images import codec, conversion, profiles, tiff_tags
from tests.conftest import within
from tests.data.images.test_fuzz_images import chunk, saved, tiff

FAULTS = Path(__file__).parents[1] / "faults"
GREY = np.asarray(Image.open(FAULTS / "refgrey.png")).astype(int)
COLOR = np.asarray(Image.open(FAULTS / "ref.png")).astype(int)


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(codec.decode(data, "x", 10**6)).astype(int)


def noted(data: bytes) -> list[str]:
    """What is said of a file that is read."""
    notes: list[str] = []
    codec.decode(data, "x", 10**6, notes=notes)
    return notes


def fault(name: str) -> np.ndarray:
    return decoded((FAULTS / name).read_bytes())


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    """The mean difference; ``expected`` may be grey."""
    expected = expected if expected.ndim == 3 else expected[..., None]
    assert found.shape == (*expected.shape[:2], 3)
    return float(np.abs(found - expected).mean())


def refusal(data: bytes) -> RowError:
    with pytest.raises(RowError) as caught:
        decoded(data)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


@pytest.mark.parametrize("name", ["bigtext.png", "bigicc.png", "alpha0.bmp"])
def test_what_a_picture_does_not_need_changes_nothing(name):
    assert apart(fault(name), COLOR) == 0


@pytest.mark.parametrize("name", ["whiteiszero16.tif", "grey12.tif"])
def test_grey_of_any_depth_is_the_same_grey(name):
    assert apart(fault(name), GREY) < 0.6


def test_a_profile_is_followed_wherever_it_is():
    wide = Image.open(FAULTS / "p3.png")
    assert apart(fault("p3.png"), by_profile(wide, wide.info["icc_profile"])) == 0
    assert apart(fault("p3.jp2"), fault("p3.png")) == 0
    assert min(apart(fault(name), COLOR) for name in ("p3.png", "adobe_icc.jpg")) > 9
    # The profile has sRGB's curve, where the standard of that name has another.
    assert apart(fault("adobe_exif.jpg"), fault("adobe_icc.jpg")) < 2
    grey = Image.open(FAULTS / "grey_lin.jpg")
    assert apart(fault("grey_lin.jpg"), by_profile(grey, grey.info["icc_profile"])) == 0


def by_profile(image: Image.Image, profile: bytes) -> np.ndarray:
    """As Pillow's ImageCms has it."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    target = ImageCms.createProfile("sRGB")
    return np.asarray(ImageCms.profileToProfile(image, source, target, outputMode="RGB"))


def grey_profile() -> bytes:
    return Image.open(FAULTS / "grey_lin.jpg").info["icc_profile"]


def test_grey_with_alpha_or_16_bits_follows_its_profile_too():
    profile = grey_profile()
    expected = by_profile(Image.fromarray(GREY.astype(np.uint8)), profile)
    grey = Image.fromarray(GREY.astype(np.uint8))
    grey.putalpha(255)
    assert apart(decoded(saved(grey, "PNG", icc_profile=profile)), expected) == 0
    deep = Image.fromarray((GREY * 257).astype(np.uint16))
    assert apart(decoded(saved(deep, "PNG", icc_profile=profile)), expected) < 0.6


def test_a_profile_of_colour_is_followed_by_grey_and_by_ycbcr():
    profile = profiles.adobe_rgb()
    grey = Image.fromarray(GREY.astype(np.uint8))
    expected = by_profile(grey.convert("RGB"), profile)
    assert apart(expected, GREY) > 0.5
    assert apart(decoded(saved(grey, "PNG", icc_profile=profile)), expected) == 0
    ycbcr = Image.fromarray(COLOR.astype(np.uint8)).convert("YCbCr")
    expected = by_profile(ycbcr.convert("RGB"), profile)
    assert apart(decoded(saved(ycbcr, "TIFF", icc_profile=profile)), expected) == 0


def test_a_bitmap_may_hold_its_profile():
    profile, pixels = profiles.adobe_rgb(), COLOR.astype(np.uint8)[::-1, :, ::-1].tobytes()
    head = struct.pack("<IiiHHIIiiII", 124, 96, 96, 1, 24, 0, len(pixels), 0, 0, 0, 0)
    head += bytes(16) + b"DEBM" + bytes(36 + 12 + 4)
    head += struct.pack("<III", 124 + len(pixels), len(profile), 0)
    start = struct.pack("<IHHI", 14 + 124 + len(pixels) + len(profile), 0, 0, 14 + 124)
    data = b"BM" + start + head + pixels + profile
    expected = by_profile(Image.fromarray(COLOR.astype(np.uint8)), profile)
    assert apart(decoded(data), expected) == 0
    assert apart(expected, COLOR) > 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_adobe_rgb_is_known_by_exif_alone(kind):
    image = Image.new("RGB", (32, 32), (40, 200, 60))
    expected = by_profile(image, profiles.adobe_rgb())[0, 0]
    notes = Image.open(FAULTS / "adobe_exif.jpg").info["exif"]
    options = {"lossless": True} if kind == "WEBP" else {}
    for rules, follows in ((b"R03", True), (b"R98", False)):
        exif = notes.replace(b"R03", rules)
        assert (exif == notes) is follows
        found = decoded(saved(image, kind, exif=exif, **options))[0, 0]
        assert found == pytest.approx(expected if follows else [40, 200, 60], abs=4)
    assert np.abs(expected.astype(int) - [40, 200, 60]).max() > 20


def test_an_alpha_of_0_everywhere_is_none():
    for mode, seen in (("RGB", COLOR), ("L", GREY)):
        image = Image.fromarray(seen.astype(np.uint8), mode)
        image.putalpha(0)
        assert apart(decoded(saved(image, "PNG")), seen) == 0
        corner = Image.new("L", image.size, 0)
        corner.paste(255, (0, 0, 8, 8))
        image.putalpha(corner)
        found = decoded(saved(image, "PNG"))
        assert (found[8:] == 255).all()


# What the type of the samples, their bits, their order and what is white come to.


def packed(values: np.ndarray, bits: int) -> bytes:
    """Rows of so many bits a sample, each beginning with a byte of its own."""
    apart = values[..., None] >> np.arange(bits)[::-1] & 1
    return np.packbits(apart.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


def made_tiff(seen, kind, bits, *, order="<", white=False, words=False, deflate=False, rows=40):
    """A TIFF in which each number of 0 to 255 of ``seen`` is spread over the range of its type."""
    seen = seen.reshape(*seen.shape[:2], -1)
    height, width, samples = seen.shape
    share = seen / 255
    if white:
        share = 1 - share
    low, high = {"u": (0, 2**bits - 1), "i": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)}.get(
        kind, (0, 1)
    )
    values = low + share * (high - low)
    values = values if kind == "f" else np.round(values).astype(np.int64)
    flat, strips = values.reshape(height, -1), []
    for top in range(0, height, rows):
        part = flat[top : top + rows]
        whole = bits in (8, 16, 32, 64)
        if whole or words:
            raw = part.astype(f"{order}{kind}{bits // 8 if whole else 2}").tobytes()
        else:
            raw = packed(part, bits)
        strips.append(zlib.compress(raw) if deflate else raw)
    places = list(itertools.accumulate(map(len, strips), initial=0))
    code = {"u": 1, "i": 2, "f": 3}[kind]
    tags = {
        256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, bits), 259: (3, 1, 1 + 7 * deflate),
        262: (3, 1, 2 if samples == 3 else int(not white)), 273: (4, len(strips), 0),
        277: (3, 1, samples), 278: (4, 1, rows), 279: (4, len(strips), 0), 339: (3, 1, code),
    }  # fmt: skip
    start = 8 + 2 + 12 * len(tags) + 4
    tags[273], tags[279] = (4, len(strips), start), (4, len(strips), start + 4 * len(strips))
    first = start + 8 * len(strips)
    numbers = [first + place for place in places[:-1]] + list(map(len, strips))
    tail = struct.pack(f"{order}{len(numbers)}I", *numbers) + b"".join(strips)
    return tiff(tags, tail, order)


TYPES = [
    *(("u", bits) for bits in (10, 12, 14, 16, 32)), *(("i", bits) for bits in (8, 12, 16, 32)),
    *(("f", bits) for bits in (16, 32, 64)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "bits"), TYPES)
def test_every_kind_of_sample_is_read_by_what_its_tags_say(kind, bits):
    forms = itertools.product("<>", (False, True), (False, True))
    for order, white, deflate in forms:
        data = made_tiff(GREY, kind, bits, order=order, white=white, deflate=deflate)
        assert apart(decoded(data), GREY) < 0.6, (order, white, deflate)
    assert apart(decoded(made_tiff(COLOR, kind, bits)), COLOR) < 0.6
    if bits in (10, 12, 14):
        for deflate in (False, True):
            data = made_tiff(GREY, kind, bits, words=True, deflate=deflate)
            assert apart(decoded(data), GREY) < 0.6


def test_what_pillow_unpacks_is_read_by_the_tags_too():
    for compression in ("tiff_lzw", "packbits"):
        for mode, values in (("I;16", GREY * 257), ("F", GREY / 255), ("I", GREY * 8421504)):
            kind = {"I;16": np.uint16, "F": np.float32, "I": np.int32}[mode]
            data = saved(Image.fromarray(values.astype(kind)), "TIFF", compression=compression)
            assert apart(decoded(data), GREY) < 0.6, mode
            swapped = bytearray(data)
            place = next(
                at for at in range(len(data) - 12) if data[at : at + 8] == b"\6\1\3\0\1\0\0\0"
            )
            assert swapped[place + 8] == 1
            swapped[place + 8] = 0
            assert apart(decoded(bytes(swapped)), 255 - GREY) < 0.6, mode


def test_white_of_12_bits_in_16_is_what_the_file_calls_so():
    data = made_tiff(GREY * (4095 / 65535), "u", 16)  # values of 0 to 4095
    assert decoded(data).max() < 20
    before, after = ((277, 3, 1, 1, 0), (281, 3, 1, 4095, 0))
    told = data.replace(struct.pack("<HHIHH", *before), struct.pack("<HHIHH", *after))
    assert apart(decoded(told), GREY) < 3


def test_measurements_that_fill_little_of_their_type_keep_their_contrast():
    values = (GREY * 8 - 1000).astype(np.int16)  # as a scanner of bodies counts
    data = made_tiff(np.zeros((96, 96)), "i", 16)
    data = data[: -values.nbytes] + values.tobytes()
    found = decoded(data)
    assert (found.min(), found.max()) == (0, 255)


def test_camera_raw_is_refused_with_what_to_do():
    error = refusal((FAULTS / "raw.dng").read_bytes())
    assert error.error_class == "not_an_image"
    assert "camera raw" in str(error)
    assert "convert it" in str(error)
    for start in (b"II*\0\x10\0\0\0CR\2\0", b"FUJIFILMCCD-RAW 0201", b"\0\0\0\x18ftypcrx \0"):
        assert "camera raw" in str(refusal(start + bytes(200)))


# Parts that are damaged, and not needed.


def test_a_jpeg_that_lacks_its_end_marker_alone_is_read():
    image = Image.fromarray(COLOR.astype(np.uint8))
    for options in ({}, {"progressive": True}, {"restart_marker_blocks": 3}):
        data = saved(image, "JPEG", **options)
        assert data.endswith(b"\xff\xd9")
        for lacking in (1, 2):
            assert apart(decoded(data[:-lacking]), decoded(data)) == 0
            assert noted(data[:-lacking]) == ["its end is missing or broken"]
        assert noted(data) == []
        for lacking in (30, 200, len(data) // 2):
            error = refusal(data[:-lacking])
            assert error.error_class == "truncated_image"
    scan = data_of_scans(saved(image, "JPEG", progressive=True))
    assert refusal(scan).error_class == "truncated_image"


def data_of_scans(progressive: bytes) -> bytes:
    """All of it but its last scan."""
    return progressive[: progressive.rindex(b"\xff\xda")]


def test_a_wrong_checksum_refuses_a_png_only_where_it_matters():
    png = saved(Image.fromarray(COLOR.astype(np.uint8)), "PNG")
    head, rest = png[:33], png[33:]
    for name, body in (
        (b"tEXt", b"Comment\0hello"),
        (b"iCCP", b"x\0\0" + zlib.compress(b"x" * 200)),
    ):
        wrong = bytearray(chunk(name, body))
        wrong[-1] ^= 1
        assert apart(decoded(head + bytes(wrong) + rest), COLOR) == 0
        first, *others = noted(head + chunk(name, body)[:-4] + bytes(4) + rest)[::-1]
        assert first == f"the checksum of {name.decode()} is wrong"
        assert len(others) == (name == b"iCCP")
    pixels = bytearray(png)
    pixels[-13] ^= 1  # of the data, whose checksum Pillow does not look at
    assert apart(decoded(bytes(pixels)), COLOR) == 0
    assert noted(bytes(pixels)) == ["the checksum of IDAT is wrong"]
    wrong = bytearray(head)
    wrong[-1] ^= 1
    error = refusal(bytes(wrong) + rest)
    assert error.error_class == "not_an_image"
    assert "bad header checksum in b'IHDR'" in str(error)


def test_what_is_wrong_with_a_picture_that_is_read_is_said():
    left_out = "its colour profile is broken or too large and was left out"
    assert noted((FAULTS / "bigicc.png").read_bytes()) == [left_out]
    for name in ("ref.png", "bigtext.png", "p3.png", "p3.jp2", "adobe_exif.jpg", "grey_lin.jpg"):
        assert noted((FAULTS / name).read_bytes()) == [], name
    image = Image.fromarray(COLOR.astype(np.uint8))
    for kind, cut in (("PNG", 12), ("PNG", 3), ("GIF", 1)):
        data = saved(image, kind)
        assert noted(data) == []
        assert noted(data + bytes(9)) == []  # some fill their sectors
        assert noted(data[:-cut]) == ["its end is missing or broken"]
        assert apart(decoded(data[:-cut]), decoded(data)) == 0
    not_followed = ["its colour profile cannot be followed and was left out"]
    broken = b"\0" * 16 + b"RGB " + b"\0" * 200
    for profile in (b"nonsense", broken, grey_profile()):
        for kind in ("JPEG", "PNG", "TIFF"):
            assert noted(saved(image, kind, icc_profile=profile)) == not_followed
    deep = Image.fromarray((GREY * 257).astype(np.uint16))
    for kind in ("PNG", "TIFF"):
        assert noted(saved(deep, kind, icc_profile=broken)) == not_followed
    exif = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\2\0\2\0\0\0x\0\0\0\0\0\0\0"  # on its side: x
    (note,) = noted(saved(image, "JPEG", exif=exif))
    assert "EXIF is broken" in note


def pages(*directories: tuple[dict, np.ndarray], order: str = "<") -> bytes:
    """A TIFF of several pages, each with tags of its own and pixels of 8 or 16 bits."""
    data = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8)
    for number, (more, pixels) in enumerate(directories):
        height, width, samples = pixels.reshape(*pixels.shape[:2], -1).shape
        raw = pixels.astype(f"{order}u{pixels.itemsize}")
        tags = {
            256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8 * pixels.itemsize),
            259: (3, 1, 1), 262: (3, 1, 2 if samples == 3 else 1), 277: (3, 1, samples),
            278: (4, 1, height), 279: (4, 1, raw.nbytes), **more,
        }  # fmt: skip
        start = len(data) + 2 + 12 * (len(tags) + 1) + 4
        tags[273] = (4, 1, start)
        data += struct.pack(f"{order}H", len(tags))
        for tag, (form, count, value) in sorted(tags.items()):
            data += struct.pack(f"{order}HHI", tag, form, count)
            data += (
                struct.pack(f"{order}HH", value, 0)
                if form == 3
                else struct.pack(f"{order}I", value)
            )
        last = number == len(directories) - 1
        data += struct.pack(f"{order}I", 0 if last else start + raw.nbytes) + raw.tobytes()
    return data


@pytest.mark.parametrize("order", ["<", ">"])
def test_of_a_tiff_that_begins_with_a_thumbnail_the_picture_is_read(order):
    small = ({254: (4, 1, 1)}, np.full((24, 24, 3), 9, np.uint8))
    middle = ({254: (4, 1, 0)}, np.full((48, 48, 3), 99, np.uint8))
    mask = ({254: (4, 1, 4)}, np.full((200, 200), 255, np.uint8))
    copy = ({254: (4, 1, 1)}, np.full((300, 300, 3), 30, np.uint8))
    full = ({}, COLOR.astype(np.uint8))
    deep = ({254: (4, 1, 2)}, (GREY * 257).astype(np.uint16))
    assert apart(decoded(pages(small, middle, mask, copy, full, order=order)), COLOR) == 0
    assert apart(decoded(pages(small, middle, deep, order=order)), GREY) < 0.6
    turned = decoded(pages(small, ({274: (3, 1, 3)}, full[1]), order=order))
    assert apart(turned, COLOR[::-1, ::-1]) == 0
    assert (decoded(pages(small, mask, order=order)) == 9).all()  # there is no other
    assert (decoded(pages(middle, full, order=order)) == 99).all()  # the first of several
    raw = ({262: (3, 1, 32803)}, deep[1])
    assert "camera raw" in str(refusal(pages(small, raw, order=order)))


def test_a_tiff_whose_pages_lead_to_themselves_is_read():
    data = bytearray(pages(({254: (4, 1, 1)}, np.full((24, 24, 3), 9, np.uint8))))
    data[8 + 2 + 12 * 10 : 8 + 2 + 12 * 10 + 4] = struct.pack("<I", 8)
    with within(10):
        assert (decoded(bytes(data)) == 9).all()


def test_of_a_thumbnail_that_leads_nowhere_itself_is_read():
    data = bytearray(pages(({254: (4, 1, 1)}, np.full((24, 24, 3), 9, np.uint8))))
    data[8 + 2 + 12 * 10 : 8 + 2 + 12 * 10 + 4] = struct.pack("<I", 10**6)
    assert (decoded(bytes(data)) == 9).all()


def test_a_tag_that_is_there_thousands_of_times_is_read_once():
    entry = struct.pack("<HHII", 273, 4, tiff_tags.MOST_VALUES, 0)
    data = b"II*\0" + struct.pack("<IH", 8, 20_000) + 20_000 * entry
    data += bytes(4 * tiff_tags.MOST_VALUES)
    with within(10):
        page = tiff_tags.picture(data)
    assert len(page.tags[273]) == tiff_tags.MOST_VALUES


# How a TIFF may lay its samples out, and what it may say of them.


def spread(seen: np.ndarray, kind: str, bits: int) -> np.ndarray:
    """0 to 255 over the whole of a type, (H, W, samples)."""
    low, high = (0, 2**bits - 1) if kind == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    values = np.round(low + seen.reshape(*seen.shape[:2], -1) / 255 * (high - low))
    return values.astype(np.int64).astype(f"<{kind}{bits // 8}")


def laid_out(values: np.ndarray, more=None, *, planes=False, predictor=False, tile=0, tail=b""):
    """A TIFF of samples of any type (H, W, n), one strip or tiles, all of it or a plane each.

    Args:
        more: further tags; the place of the first of ``tail`` for those whose value is None.
    """
    height, width, samples = values.shape
    apart = [values[..., n : n + 1] for n in range(samples)] if planes else [values]
    parts = []
    for plane in apart:
        side = tile or max(height, width)
        room = [(0, -length % side if tile else 0) for length in (height, width)]
        filled = np.pad(plane, [*room, (0, 0)])
        for top, left in itertools.product(range(0, height, side), range(0, width, side)):
            part = filled[top : top + side, left : left + side]
            if predictor:
                part = np.diff(part, axis=1, prepend=part[:, :1] * 0)
            parts.append(part.tobytes())
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {
        256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, values.itemsize * 8), 259: (3, 1, 1),
        262: (3, 1, 2 if samples >= 3 else 1), 277: (3, 1, samples), 284: (3, 1, 1 + planes),
        317: (3, 1, 1 + predictor), 339: (3, 1, kind), **(more or {}),
    }  # fmt: skip
    tags |= {322: (3, 1, tile), 323: (3, 1, tile)} if tile else {278: (4, 1, height)}
    start = 8 + 2 + 12 * (len(tags) + 2) + 4
    count, lengths = len(parts), list(map(len, parts))
    first = start + 8 * count
    tags |= {
        (324 if tile else 273): (4, count, start if count > 1 else first),
        (325 if tile else 279): (4, count, start + 4 * count if count > 1 else lengths[0]),
    }
    end = first + sum(lengths)
    tags = {tag: (*form, end) if len(form) == 2 else form for tag, form in tags.items()}
    places = list(itertools.accumulate(lengths, initial=first))[:-1]
    return tiff(tags, struct.pack(f"<{2 * count}I", *places, *lengths) + b"".join(parts) + tail)


@pytest.mark.parametrize("tile", [0, 32, 80])
@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("predictor", [False, True])
def test_samples_are_found_however_they_are_laid_out(tile, planes, predictor):
    layout = {"tile": tile, "planes": planes, "predictor": predictor}
    for seen, kind, bits in ((COLOR, "u", 32), (COLOR, "i", 16), (GREY, "i", 8)):
        assert apart(decoded(laid_out(spread(seen, kind, bits), **layout)), seen) < 0.6


def test_a_further_sample_of_a_deep_tiff_is_alpha_only_if_it_is_called_so():
    alpha = np.full((96, 96, 1), 255)
    alpha[:48] = 51  # a fifth
    values = spread(np.concatenate([COLOR, alpha], axis=2), "u", 32)
    assert apart(decoded(laid_out(values, {338: (3, 1, 0)})), COLOR) < 0.6
    found = decoded(laid_out(values, {338: (3, 1, 2)}))
    assert apart(found[48:], COLOR[48:]) < 0.6
    assert apart(found[:48], 255 - (255 - COLOR[:48]) * 0.2) < 1
    premultiplied = np.concatenate([COLOR * (alpha / 255), alpha], axis=2)
    found = decoded(laid_out(spread(premultiplied, "u", 32), {338: (3, 1, 1)}))
    assert apart(found[:48], 255 - (255 - COLOR[:48]) * 0.2) < 2


def test_a_deep_tiff_has_a_profile_and_lies_on_its_side_like_others():
    profile = profiles.adobe_rgb()
    expected = by_profile(Image.fromarray(COLOR.astype(np.uint8)), profile)
    data = laid_out(spread(COLOR, "u", 32), {34675: (7, len(profile))}, tail=profile)
    assert apart(decoded(data), expected) < 0.6
    data = laid_out(spread(COLOR, "u", 32), {274: (3, 1, 6)})
    assert apart(decoded(data), np.rot90(COLOR, -1)) < 0.6
    # Grey follows before it is rounded.
    profile = grey_profile()
    expected = by_profile(Image.fromarray(GREY.astype(np.uint8)), profile)
    data = laid_out(spread(GREY, "u", 32), {34675: (7, len(profile))}, tail=profile)
    assert apart(decoded(data), expected) < 0.6


def test_what_is_black_and_white_among_samples_that_do_not_fill_their_type():
    def read(values, **more):
        return decoded(laid_out(values.reshape(96, 96, 1), **more))

    for kind in ("<f4", "<i2", "<u4", "<i4"):
        assert apart(read(GREY.astype(kind)), GREY) < 0.6  # of 0 to 255
    for kind in ("<u4", "<i4"):
        assert apart(read((GREY * 257).astype(kind)), GREY) < 0.6  # of 0 to 65535
    stretched = (GREY - GREY.min()) / (GREY.max() - GREY.min()) * 255
    assert apart(read((0.9 + GREY / 300).astype("<f4")), stretched) < 0.6
    holes = [np.nan, np.inf, -np.inf]
    for first, share, shown in ((0, 1 / 255, GREY), (0.9, 1 / 300, stretched)):
        for white, ends in ((1, [0, 255, 0]), (0, [0, 0, 255])):
            values = (first + GREY * share).astype("<f4")
            values[48, 40:43] = holes
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found = read(values, more={262: (3, 1, white)})
            assert found[48, 40:43, 0].tolist() == ends
            assert apart(found[:48], (shown if white else 255 - shown)[:48]) < 0.6
    # A white that is the picture's own, or beside a black, is none.
    values = spread(GREY // 2, "u", 16)
    for more in ({281: (3, 1, 30_000)}, {280: (3, 1, 9), 281: (3, 1, 32_767)}):
        assert apart(read(values, more=more), GREY // 2) < 0.6


def test_a_deep_tiff_that_contradicts_itself_is_refused():
    sound = laid_out(spread(GREY, "u", 32))
    for tag, kind, before, after, message in (
        (277, 3, 1, 9, "9 samples per pixel"),
        (262, 3, 1, 2, "1 samples per pixel for 3 colours"),
        (278, 4, 96, 0, "tiles of 96 x 0 px"),
    ):
        told, wrong = (struct.pack("<HHII", tag, kind, 1, value) for value in (before, after))
        assert sound.count(told) == 1
        error = refusal(sound.replace(told, wrong))
        assert error.error_class == "truncated_image"
        assert message in str(error)


def test_bits_in_the_other_order_are_not_read_in_this_one():
    data = laid_out(spread(GREY, "i", 16), {266: (3, 1, 2)})
    assert refusal(data).error_class == "not_an_image"


def test_signed_and_unsigned_samples_that_pillow_unpacks_are_told_apart():
    signed = (GREY - 128).astype(np.int8).view(np.uint8)
    for values, mode, kind in ((signed, "L", 2), ((GREY * 0x1010101).astype("<u4"), "I", 1)):
        image = Image.frombytes(mode, (96, 96), values.tobytes())
        data = bytearray(saved(image, "TIFF", compression="tiff_lzw", tiffinfo={339: kind}))
        place = data.index(struct.pack("<HHI", 339, 3, 1))  # Pillow says of "I" what it likes
        data[place + 8] = kind
        assert apart(decoded(bytes(data)), GREY) < 0.6
    data = laid_out(spread(GREY, "u", 32), {339: (3, 1, 4)})  # of no known kind
    assert apart(decoded(data), GREY) < 0.6


def test_a_small_page_beside_directories_inside_it_is_camera_raws():
    small = np.full((24, 24, 3), 9, np.uint8)
    full = ({}, COLOR.astype(np.uint8))
    for more in ({254: (4, 1, 1), 330: (4, 1, 8)}, {50706: (1, 4, 1)}):
        assert "camera raw" in str(refusal(pages((more, small), full)))
    assert (decoded(pages(({330: (4, 1, 8)}, small), full)) == 9).all()


def test_which_exif_says_adobe_rgb():
    notes = Image.open(FAULTS / "adobe_exif.jpg").info["exif"]
    image = Image.new("RGB", (32, 32), (40, 200, 60))
    followed = decoded(saved(image, "PNG", exif=notes))[0, 0]
    place = next(
        at for at in range(len(notes)) if notes[at : at + 4] in (b"\1\xa0\3\0", b"\xa0\1\0\3")
    )
    little = notes[place] == 1
    for space, rules, is_adobe in ((0xFFFF, b"R03", 1), (2, b"R98", 1), (1, b"R03", 0)):
        changed = bytearray(notes.replace(b"R03", rules))
        changed[place + 8 : place + 10] = struct.pack("<H" if little else ">H", space)
        found = decoded(saved(image, "PNG", exif=bytes(changed)))[0, 0]
        assert found.tolist() == (followed.tolist() if is_adobe else [40, 200, 60]), space
    grey = Image.fromarray(GREY.astype(np.uint8))
    assert apart(decoded(saved(grey, "PNG", exif=notes)), GREY) == 0


def test_what_is_too_large_to_be_followed_is_left_out(monkeypatch):
    image = Image.fromarray(COLOR.astype(np.uint8))
    png = saved(image, "PNG")
    data = png[:33] + chunk(b"eXIf", b"II*\0" + bytes(2**20)) + png[33:]
    assert noted(data) == ["its EXIF is broken or too large and was left out"]
    profile = profiles.adobe_rgb()
    monkeypatch.setattr(profiles, "LONGEST", len(profile) - 1)
    data = saved(image, "TIFF", icc_profile=profile)
    assert apart(decoded(data), COLOR) == 0
    assert noted(data) == [profiles.LEFT_OUT]


def test_premultiplied_pictures_of_ones_own_are_shown_as_they_are():
    for mode, seen in (("RGBA", COLOR), ("LA", GREY)):
        image = Image.fromarray(seen.astype(np.uint8))
        image.putalpha(128)
        assert image.mode == mode
        found = np.asarray(conversion.to_rgb(image.convert(mode.replace("A", "a")))).astype(int)
        assert apart(found, 255 - (255 - seen) * 128 / 255) < 2
