"""Bundles with every variant that `training.variants` can make of them, kept in the cache."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import crops
from metro_ros.core.bundle import Bundle, default_bundle_path, load_bundle, record_measurement
from metro_ros.core.engines.cache import writable_folder
from metro_ros.core.manifest import VARIANT_PRECISIONS
from training import quantise, typed_graph, variants
from training.variants import VariantError, make_variant

CROPS = {192: 60, 224: 12}
"""To calibrate and measure variants with, by side: a crop of the paper's takes a second and more, many times."""
FEWEST = 12
REFUSED = "refused_variants"
SOURCES = (crops.__file__, quantise.__file__, typed_graph.__file__, variants.__file__)


def default_with_variants() -> Bundle:
    """A copy of the bundle that comes with the package, with the variants that it lacks."""
    source = default_bundle_path()
    folder = kept_folder("default", str(source / "manifest.json"))
    if not folder.is_dir():
        make_folder(folder, lambda path: shutil.copytree(source, path))
    return add_variants(load_bundle(folder))


def add_variants(bundle: Bundle) -> Bundle:
    """Make what is missing, in place. The manifest tells which were refused and why, so that none is tried twice."""
    size = bundle.manifest.crop.size
    for precision in VARIANT_PRECISIONS:
        if precision in bundle.manifest.variants or precision in refused(bundle):
            continue
        print(f"making the {precision} variant of {bundle.manifest.name} (once)", flush=True)
        try:
            bundle, _ = make_variant(bundle, precision, crops.variant_crops(size, CROPS.get(size, FEWEST)))
        except VariantError as error:
            bundle = record_measurement(bundle, REFUSED, {**refused(bundle), precision: str(error)})
    return bundle


def refused(bundle: Bundle) -> dict[str, str]:
    """Why a variant could not be made, by precision."""
    return dict(bundle.manifest.measured.get(REFUSED, {}))


def kept_folder(name: str, *files: str | None) -> Path:
    """Where something is kept, or would be: by name, and by the content of all files that it follows from."""
    digest = hashlib.sha256()
    for file in (*files, *SOURCES):
        digest.update(Path(str(file)).read_bytes())
    root = writable_folder("benchmarks") or Path(tempfile.mkdtemp())
    return root / f"{name}_{digest.hexdigest()[:16]}"


def make_folder(folder: Path, make: Callable[[Path], object]) -> None:
    """Make a folder whole or not at all, in the place of those that were kept under its name for other reasons."""
    for outdated in folder.parent.glob(f"{folder.name.rpartition('_')[0]}_*"):
        shutil.rmtree(outdated)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        make(Path(scratch) / folder.name)
        (Path(scratch) / folder.name).rename(folder)
