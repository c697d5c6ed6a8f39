"""Everything a user can set, and the only place where settings are validated.

``StyleSettings`` are the paper's hyperparameters: each field changes pixels. ``JobSettings`` say
where a job reads and writes and how it uses the machines. ``ManifestSettings`` say which pairs of
two folders make a manifest. All are frozen.
Each field carries its help text, unit and range, from which the command line and
``docs/settings.md`` are made; where a field names a group, it begins there.
"""

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import operator
import re
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

CONVS_PER_BLOCK: Final = (2, 2, 4, 4, 4)  # VGG-19: arXiv 1409.1556, table 1, column E

LAYERS: Final[tuple[str, ...]] = tuple(
    f"conv{block}_{index}"
    for block, count in enumerate(CONVS_PER_BLOCK, 1)
    for index in range(1, count + 1)
)
"""VGG-19's convolutions as the paper names them: conv1_1 ... conv5_4."""

ROW_OVERRIDES: Final = (
    "content_weight",
    "style_weight",
    "image_size",
    "iterations",
    "seed",
    "preserve_color",
)
"""The style settings that a manifest column of the same name sets for its row."""


SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")
"""RFC 3986, 3.1, in lower case. No underscore: names of options, as client_kwargs, are none."""


OPTIONS_BY_SCHEME: Final = 'options by scheme, in lower case, as {"s3": {"endpoint_url": "..."}}'


class SettingError(ValueError):
    """A setting is unknown, of the wrong type or out of range. The message names all three."""


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    least: float | None = None,
    unit: str = "",
    group: str = "",
) -> Any:
    """A dataclass field with its documentation: ``low <= value <= high`` and ``above < value``,
    and nothing between 0 and ``least``.

    ``group`` is the title under which it and those after it are shown, up to the next with one.
    """
    limits = {"low": low, "high": high, "above": above, "least": least, "unit": unit}
    return field(default=default, metadata={"help": help, "group": group, **limits})


WEIGHT: Final[Mapping[str, Any]] = {"low": 0, "high": 1e15, "least": 1e-15}
"""Range of a loss's weight. float32 cannot tell what is smaller or larger beside another."""


@dataclass(frozen=True, kw_only=True)
class StyleSettings:
    """The method's hyperparameters, with the paper's names. Every field changes pixels.

    Raises:
        SettingError: on construction, when a value is out of its range.
    """

    weights: str = setting(
        "imagenet",
        "VGG-19 weights: 'imagenet' (torchvision), 'compact' (few filters, fitted to VGG-16, "
        "in this package), 'random' (untrained, seeded by weights_seed), or a path or URI of a "
        ".pth or .safetensors file of VGG-19 or VGG-16, with ':caffe' behind it if it was made for "
        "Caffe's input (BGR, 0 to 255)",
        group="network (changes pixels)",
    )
    weights_seed: int = setting(0, "seed of 'random' weights", low=0, high=2**63 - 1)
    pooling: Literal["avg", "max"] = setting("avg", "pooling between the blocks of VGG-19")
    padding: Literal["zeros", "replicate", "reflect"] = setting(
        "zeros", "padding of the convolutions; VGG-19 was trained with zeros"
    )

    content_layers: tuple[str, ...] = setting(
        ("conv4_2",), "layers of the content loss", group="losses (change pixels)"
    )
    style_layers: tuple[str, ...] = setting(
        ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"), "layers of the style loss"
    )
    style_layer_weights: Literal["balanced", "authors", "equal"] | tuple[float, ...] = setting(
        "balanced",
        "w_l of each style layer: 'balanced' (each layer is the same share of the content image's "
        "style loss), 'authors' (1/N_l^2, as the paper's authors' code), 'equal' (equal shares of "
        "1, as the paper's experiments), or a number for each layer",
        low=0,
    )
    content_weight: float = setting(
        0.03,
        "weight of the content loss, relative to the content image's style loss; more keeps more "
        "of the content",
        **WEIGHT,
    )
    content_weight_unit: Literal["relative", "alpha"] = setting(
        "relative",
        "relative: content_weight counts in the content image's style loss; alpha: it is the "
        "paper's alpha itself",
    )
    style_weight: float = setting(1.0, "beta, the weight of the style loss", **WEIGHT)
    tv_weight: float = setting(
        0.25, "weight of the total variation, relative to the content image's style loss", **WEIGHT
    )

    image_size: int = setting(
        512,
        "length of the edge named by image_edge, in the result",
        low=32,
        high=8192,
        unit="px",
        group="picture (changes pixels)",
    )
    image_edge: Literal["long", "short"] = setting("long", "the edge that image_size measures")
    style_scale: float = setting(
        1.0, "size of the style image relative to image_size", low=0.1, high=4
    )
    init_image: Literal["recolored", "content", "noise"] = setting(
        "recolored",
        "where the optimisation starts: the content image in the style's colours (mean and "
        "covariance), the content image, or white noise as in the paper",
    )
    seed: int = setting(0, "seed of the white noise", low=0, high=2**63 - 1)
    preserve_color: Literal["none", "luminance", "histogram"] = setting(
        "none",
        "keep the content's colours: transfer luminance only, or first give the style image the "
        "content's colour statistics",
    )

    precision: Literal["float32", "mixed"] = setting(
        "float32",
        "mixed: the network in float16 on GPUs; in bfloat16 on CPUs, the last tenth or more in "
        "float32. Sums are in float32",
        group="optimisation (changes pixels)",
    )
    scales: int = setting(
        2, "coarse-to-fine: sizes, each half of the next, none below 160 px", low=1, high=6
    )
    iterations: int = setting(
        60,
        "most loss evaluations per image, shared equally by the scales",
        low=1,
        high=100_000,
        unit="evaluations",
    )
    tolerance: float = setting(
        0.01,
        "stop an image when its loss fell by less than this share over 20 evaluations; 0: never",
        low=0,
        high=1,
    )
    optimizer: Literal["lbfgs", "adam"] = setting("lbfgs", "how the loss is minimised")
    learning_rate: float = setting(
        1.0, "step length of L-BFGS, or Adam's rate in grey levels", above=0, high=100
    )
    history_size: int = setting(10, "curvature pairs that L-BFGS keeps", low=1, high=200)
    curvature_test: Literal["cosine", "absolute"] = setting(
        "cosine",
        "which curvature pairs L-BFGS keeps: s.y > 1e-6 |s||y|, or torch's s.y > 1e-10",
    )
    first_step: float = setting(
        8.0, "largest change of a pixel in the first step; 0: torch's rule", low=0, unit="levels"
    )
    backtracks: int = setting(
        6,
        "how often a step that does not lower the loss is shortened; 0: any step is taken",
        low=0,
        high=30,
    )
    spectral_exponent: float = setting(
        0.75, "p of the 1/f^p preconditioner; 0: none", low=0, high=2
    )
    color_preconditioner: bool = setting(
        True, "precondition by the colour covariance of the style image"
    )
    learn_preconditioner: bool = setting(
        True, "learn each pair's own preconditioner from its first steps"
    )

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            check_value(spec, value)
            object.__setattr__(self, spec.name, in_one_form(spec, value))
        for name in ("content_layers", "style_layers"):
            chosen: tuple[str, ...] = getattr(self, name)
            unknown = [layer for layer in chosen if layer not in LAYERS]
            if unknown:
                raise SettingError(
                    f"{name}: {in_short(unknown[0])} is no layer of VGG-19; choose from "
                    f"{LAYERS[0]} ... {LAYERS[-1]}"
                )
            if len(set(chosen)) != len(chosen):
                raise SettingError(f"{name}: {','.join(chosen)} names a layer twice")
        if not self.content_layers and not self.style_layers:
            raise SettingError("content_layers and style_layers are both empty: nothing to match")
        weights = self.style_layer_weights
        if isinstance(weights, tuple) and len(weights) != len(self.style_layers):
            raise SettingError(
                f"style_layer_weights: {len(weights)} weights for {len(self.style_layers)} "
                "style_layers; give one for each"
            )
        if not self.weights:
            raise SettingError("weights: '' is empty; give 'imagenet', 'random', a path or a URI")

    @property
    def deepest_layer(self) -> str:
        """The last layer that any loss reads; the network is cut after it."""
        return max((*self.content_layers, *self.style_layers), key=LAYERS.index)


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """Where a job reads and writes, and how it uses the machines.

    Raises:
        SettingError: on construction, when a value is out of its range.
    """

    manifest: str = setting(
        "", "Parquet file or directory of pairs: path or URI", group="input and output"
    )
    output: str = setting("", "directory of the results: path or URI")
    limit: int | None = setting(None, "take only the first pairs of the manifest", low=1)
    retry_errors: bool = setting(False, "do the rows again that ended as errors in an earlier run")
    overwrite: bool = setting(
        False, "delete what earlier runs wrote in this output, and nothing else, and start afresh"
    )

    actors: int | None = setting(
        None,
        "most style actors; work begins with the first, Ray's autoscaler is asked for all of them; "
        "one for each GPU, else for each CPU that has memory for it, if not given",
        low=1,
        high=10_000,
        group="machines and batches",
    )
    gpus_per_actor: float | None = setting(
        None, "GPUs of an actor, fractions allowed; 1 where Ray has GPUs, else 0", low=0, high=1
    )
    cpus_per_actor: float | None = setting(
        None,
        "CPUs that Ray reserves for an actor; chosen if not given. Leave two of the cluster free",
        low=0,
        high=1024,
    )
    batch_size: int | None = setting(
        None,
        "most pairs optimised together; 8 on a GPU, 1 on a CPU if not given",
        low=1,
        high=1024,
        unit="pairs",
    )
    rows_per_block: int | None = setting(
        None,
        "pairs of a block, an actor's unit of work, which are recorded together; a killed job may "
        "redo three blocks of each actor, and what waited to be recorded; if not given 4 batches, "
        "more in a long job, less in a short one; of large images several small blocks together",
        low=1,
        high=100_000,
        unit="pairs",
    )
    memory: Literal["normal", "low"] = setting(
        "normal", "low: keep fewer activations and compute them again, for very large images"
    )
    style_cache: int = setting(64, "style targets that an actor keeps", low=1, high=100_000)
    stall_timeout: float = setting(
        1800.0,
        "longest time without progress: a process that loads, evaluates or stores one pair, or "
        "packs one shard, for so long is ended and begins again, three times at most; waiting for "
        "nodes does not count; 0: never",
        low=0,
        high=1_000_000,
        unit="s",
    )

    image_format: Literal["png", "jpg", "webp"] = setting(
        "png", "file format of the images", group="image files and shards"
    )
    quality: int = setting(95, "quality of jpg and webp", low=1, high=100)
    embed_metadata: bool = setting(
        False,
        "write into each image how it was made (inputs, settings, losses, weights): PNG text, or "
        "EXIF of jpg and webp",
    )
    format: Literal["files", "webdataset", "parquet"] = setting(
        "files",
        "what is made for training once all pairs are done: the image files alone, or beside them "
        "tar shards in webdataset/, or Parquet shards in parquet/",
    )
    shard_size: float = setting(
        256.0,
        "image bytes of a shard, about; each packing task holds a shard in memory",
        low=0.01,
        high=4096,
        unit="MB",
    )
    max_pixels: int = setting(
        100_000_000,
        "largest image that is decoded",
        low=1024,
        high=2**31,
        unit="px",
        group="what may be read, and how",
    )
    max_bytes: int = setting(
        2**28, "largest image file that is read", low=1024, high=2**34, unit="bytes"
    )
    allow_schemes: tuple[str, ...] = setting(
        (),
        "URI schemes that rows may use beside the manifest's own and the object stores', "
        "for example https,file",
    )
    storage_options: Mapping[str, Any] | None = setting(
        None, 'fsspec options by scheme, as JSON: {"s3": {"endpoint_url": "..."}}'
    )
    report: bool = setting(True, "write report.html at the end", group="report and messages")
    thumbnails: int = setting(
        1000,
        "most pairs whose pictures report.html holds",
        low=0,
        high=100_000,
        unit="pairs",
    )
    verbose: bool = setting(False, "show Ray's own log")

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            check_value(spec, getattr(self, spec.name))
        for name in ("manifest", "output"):
            if not getattr(self, name):
                raise SettingError(f"{name}: is missing; give a path or a URI")
            _refuse_chain(name, getattr(self, name))
        _refuse_patterns(self.output)
        _check_by_scheme(self.storage_options)
        if self.retry_errors and self.overwrite:
            raise SettingError("retry_errors and overwrite exclude each other: choose one")


@dataclass(frozen=True, kw_only=True)
class ManifestSettings:
    """Which pairs of two folders of images make a manifest, and where it goes.

    Raises:
        SettingError: on construction, when a value is out of its range or does not fit another.
    """

    content: str = setting(
        "",
        "content images: a folder with all below it, a glob ('s3://b/photos/**/*.jpg'), a file",
        group="input and output",
    )
    style: str = setting("", "style images, in the same forms")
    output: str = setting("", "folder of the manifest: path or URI")
    mode: Literal["cross", "sample"] = setting(
        "sample",
        "every content with every style, or with some that are drawn for it",
        group="which pairs",
    )
    styles_per_content: int | None = setting(
        None, "styles that mode sample draws for a content, no style twice; 1 if not given", low=1
    )
    seed: int = setting(0, "another seed, other draws", low=0, high=2**63 - 1)
    limit: int | None = setting(
        None, "content images at most: a random sample, the same in any order of the files", low=1
    )
    label_from: Literal["parent", "csv", "none"] = setting(
        "none",
        "a content's label: the folder it lies in, or the column label of --labels",
        group="labels and splits",
    )
    split_from: Literal["parent", "csv", "none"] = setting(
        "none",
        "a content's split: the folder above the label's (without labels, the one it lies in), or "
        "the column split of --labels",
    )
    labels: str = setting(
        "",
        "CSV file, path or URI, with a header: file_name (with or without folders), label, split",
    )
    rows_per_file: int = setting(
        100_000,
        "pairs in a file of the manifest",
        low=1,
        high=10_000_000,
        group="storage",
    )
    overwrite: bool = setting(False, "replace the manifest that lies in the output")
    storage_options: Mapping[str, Any] | None = setting(
        None, 'fsspec options by scheme, as JSON: {"s3": {"endpoint_url": "..."}}'
    )

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            check_value(spec, getattr(self, spec.name))
        for name in ("content", "style", "output"):
            if not getattr(self, name):
                raise SettingError(f"{name}: is missing; give a path or a URI")
        _refuse_chain("output", self.output)
        _check_by_scheme(self.storage_options)
        if self.mode == "cross" and self.styles_per_content is not None:
            raise SettingError("styles_per_content: is for mode sample; cross takes all styles")
        from_csv = "csv" in (self.label_from, self.split_from)
        if from_csv and not self.labels:
            raise SettingError("labels: is missing; give the CSV file that holds them")
        if self.labels and not from_csv:
            raise SettingError("labels: is not used; add --label-from csv or --split-from csv")


Settings = TypeVar("Settings", StyleSettings, JobSettings, ManifestSettings)


def canonical(settings: StyleSettings) -> dict[str, Any]:
    """Every field that changes pixels, equal for settings that ask for the same: layers in the
    network's order with their w_l, and these as numbers."""
    fields = dataclasses.asdict(settings)
    del fields["weights"]  # the digest says it better: one file may have several names
    del fields["weights_seed"]
    layers, count = settings.style_layers, len(settings.style_layers)
    weights = settings.style_layer_weights
    if weights == "equal":
        weights = (1.0 / max(count, 1),) * count
    if isinstance(weights, tuple):
        of_layer = dict(zip(layers, weights, strict=True))
        fields["style_layer_weights"] = [of_layer[layer] for layer in LAYERS if layer in of_layer]
    for name in ("content_layers", "style_layers"):
        fields[name] = [layer for layer in LAYERS if layer in fields[name]]
    return fields


def fingerprint(settings: StyleSettings, weights_digest: str, *more: str | int) -> str:
    """16 hex digits over every field that changes pixels, the weights themselves, and ``more``."""
    text = json.dumps([canonical(settings), weights_digest, *more], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def replace(settings: Settings, /, **changes: Any) -> Settings:
    """``settings`` with some fields changed.

    Raises:
        SettingError: for a name that is no setting or a value out of range.
    """
    names = [spec.name for spec in dataclasses.fields(settings)]
    for name in changes:
        if name not in names:
            raise unknown_setting(name, names)
    return dataclasses.replace(settings, **changes)


def unknown_setting(name: str, known: Iterable[str]) -> SettingError:
    """The error that names the setting which may have been meant, or else all of them."""
    names = list(known)
    meant = did_you_mean(name, names) or f"choose from {', '.join(names)}"
    return SettingError(f"{in_short(name)[1:-1]}: is no setting; {meant}")


LIKE = 0.7
"""Of 1, how like a known name another one is at least, for it to have been meant."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The known name that is most like it, in words; empty if none is like it."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=LIKE)
    return f"did you mean {near[0]}?" if near else ""


def grouped(settings: type) -> dict[str, list["dataclasses.Field[Any]"]]:
    """The fields of a settings class under their groups' titles, all in their order."""
    groups: dict[str, list[dataclasses.Field[Any]]] = {}
    title = ""
    for spec in dataclasses.fields(settings):
        title = spec.metadata["group"] or title
        groups.setdefault(title, []).append(spec)
    return groups


def describe_range(spec: "dataclasses.Field[Any]") -> str:
    """A field's range in words: ``32 to 8192 px``, ``avg | max``; empty if all is allowed."""
    choices = choices_of(spec)
    if choices:
        more = "" if takes_only(spec) else f" | {describe_type(spec)}"
        return " | ".join(choices) + more
    low, high, above, unit = (spec.metadata[key] for key in ("low", "high", "above", "unit"))
    text = ""
    if above is not None:
        text = f"above {above}"
    elif low is not None:
        text = f"at least {low}" if high is None else f"{low}"
    if spec.metadata["least"] is not None:
        return f"0, or {spec.metadata['least']:g} to {high:g}"
    if high is not None:
        text = f"{text} to {high}" if above is None else f"{text}, at most {high}"
    return f"{text} {unit}".strip()


def choices_of(spec: "dataclasses.Field[Any]") -> tuple[str, ...]:
    """The words that a field may hold by its ``Literal``, else nothing."""
    return tuple(
        word
        for hint in _parts(spec.type)
        if typing.get_origin(hint) is Literal
        for word in typing.get_args(hint)
    )


def takes_only(spec: "dataclasses.Field[Any]") -> bool:
    """Whether a field holds nothing but one of its ``choices_of``."""
    return typing.get_origin(spec.type) is Literal


def _parts(hint: Any) -> tuple[Any, ...]:
    """The types of a union; of another type itself."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def in_short(value: Any) -> str:
    """``repr`` of any value whatsoever, for one line of a message: some hundred letters at most."""
    try:
        text = _BRIEF.repr(value)
    except Exception:  # an integer of 5000 digits, for one
        text = f"a value of type {type(value).__name__}"
    return " ".join(text.split())


_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 80


def check_value(spec: "dataclasses.Field[Any]", value: Any) -> None:
    """Whether a field may have this value, as a settings object with it would find.

    Raises:
        SettingError: it has another type, or is out of range.
    """
    hint: Any = spec.type
    if not _test_of(hint)(value):
        raise SettingError(f"{spec.name}: {_misfit(spec, value)}")
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            _check_number(spec, number)


def in_one_form(spec: "dataclasses.Field[Any]", value: Any) -> Any:
    """1 as 1.0 and -0.0 as 0.0 where a field takes fractions, so that equal values look equal."""
    if not _takes_fractions(spec.type):
        return value
    if isinstance(value, tuple):
        return tuple(float(number) + 0.0 for number in value)
    return float(value) + 0.0 if isinstance(value, (int, float)) else value


def _takes_fractions(hint: Any) -> bool:
    return hint is float or any(map(_takes_fractions, typing.get_args(hint)))


def _misfit(spec: "dataclasses.Field[Any]", value: Any) -> str:
    if spec.name == "storage_options":  # what they hold may be a secret
        return f"the value must be {OPTIONS_BY_SCHEME}"
    if choices := choices_of(spec):
        more = "" if takes_only(spec) else f", nor {describe_type(spec)}"
        return f"{in_short(value)} is not one of: {', '.join(choices)}{more}"
    allowed = describe_range(spec)
    limits = f"; range: {allowed}" if allowed else ""
    return f"{in_short(value)} is not {describe_type(spec)}{limits}"


def _check_by_scheme(options: Mapping[str, Any] | None) -> None:
    """Options without a scheme above them would reach no storage, and nobody would say so."""
    for scheme, given in (options or {}).items():
        known = isinstance(scheme, str) and SCHEME.fullmatch(scheme)
        if not known or not isinstance(given, Mapping):  # shows neither: they may be secrets
            raise SettingError(f"storage_options: must be {OPTIONS_BY_SCHEME}")


def _refuse_chain(name: str, uri: str) -> None:
    """To fsspec ``a::b`` is a file in another one, also where it is the path of a local file."""
    if "::" in uri:  # not shown: it may hold a password
        raise SettingError(
            f"{name}: has '::' in it, which stands between chained URIs, and these are never "
            "taken; choose or make a path without it"
        )


def _refuse_patterns(output: str) -> None:
    """Ray and fsspec read, move and delete by name, and take these names for something else.

    Ray cuts a path off at ``?`` when it looks for files that end in .parquet, so that all seems to
    be done, and leaves tabs and line ends out of it; fsspec moves and deletes whatever a pattern
    fits, other outputs as well.
    """
    local = "://" not in output or output.lower().startswith("file:")
    found = re.search(r"[?\t\r\n]" if local else r"[?\t\r\n*[]", output)
    if found:
        raise SettingError(
            f"output: has {found[0]!r} in its name, which Ray and fsspec take for a pattern or the "
            "end of a path, or leave out; choose an output without it"
        )


_BOUNDS = operator.itemgetter("low", "high", "above", "least")


def _check_number(spec: "dataclasses.Field[Any]", number: float) -> None:
    low, high, above, least = _BOUNDS(spec.metadata)
    if (
        not _is_finite(number)
        or (low is not None and number < low)
        or (high is not None and number > high)
        or (above is not None and number <= above)
        or (least is not None and 0 < number < least)
    ):
        raise SettingError(
            f"{spec.name}: {in_short(number)} is out of range; "
            f"range: {describe_range(spec) or 'finite'}"
        )


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer that no float can hold
        return False


@functools.cache
def _test_of(hint: Any) -> Callable[[Any], bool]:
    """What says whether a value has the type ``hint``. Made once: rows come by the million."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return lambda value: isinstance(value, str) and value in args
    if len(_parts(hint)) > 1:
        tests = tuple(map(_test_of, args))
        return lambda value: any(test(value) for test in tests)
    if origin is tuple:
        test = _test_of(args[0])  # all of them are tuple[X, ...]
        return lambda value: isinstance(value, tuple) and all(map(test, value))
    if hint is bool:
        return lambda value: isinstance(value, bool)
    plain = (int, float) if hint is float else origin or hint
    return lambda value: isinstance(value, plain) and not isinstance(value, bool)


_KINDS: Final[Mapping[Any, str]] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    tuple[float, ...]: "a list of numbers",
    tuple[str, ...]: "a list of texts",
}


def describe_type(spec: "dataclasses.Field[Any]") -> str:
    """The kind of value that a field takes, in words; not for a ``Literal`` or a mapping."""
    return _KINDS[plain_type(spec)]


def plain_type(spec: "dataclasses.Field[Any]") -> Any:
    """The field's type without ``| None``, and without words that stand for a value."""
    if takes_only(spec):
        return spec.type
    return next(
        hint
        for hint in _parts(spec.type)
        if hint is not types.NoneType and typing.get_origin(hint) is not Literal
    )
