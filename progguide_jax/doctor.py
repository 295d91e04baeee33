"""What is there of what the commands need, and what to type for the rest.

    python -m progguide_jax.doctor

A line each for versions, devices, extras, CIFAR-10 and the weights of each feature
network. Exit code 1 if something is missing that every command needs.
"""

import sys
from collections.abc import Iterator, Sequence
from importlib import metadata

import jax
from packaging import requirements

import progguide_jax
from progguide_jax.data import cifar10
from progguide_jax.pretrained import locate
from progguide_jax.runtime import config as config_lib
from progguide_jax.scoring import extraction

_PROJECT = "progguide-jax"


def main(arguments: Sequence[str] = ()) -> int:
    """Print the lines; the exit code."""
    if arguments:
        print("usage: python -m progguide_jax.doctor (it takes no arguments)")
        return 2
    broken = False
    if progguide_jax.__file__ is None:
        print(
            "progguide_jax is a folder here, not the package: type cd progguide_jax, "
            "and there pip install -e . again"
        )
        return 1
    print(f"progguide_jax {progguide_jax.__version__}, python {sys.version.split()[0]}")
    print(", ".join(f"{k} {v}" for k, v in config_lib.versions().items()))
    for ok, line in (*devices(), *packages(), *data(), *weights()):
        print(line)
        broken |= not ok
    return int(broken)


def devices() -> Iterator[tuple[bool, str]]:
    """(whether the commands can run, a line), as the other checks."""
    try:
        found = jax.devices()
    except (RuntimeError, AssertionError) as error:  # a backend that is not there
        reason = (str(error).splitlines() or [""])[0][:200]
        yield False, f"devices: none ({reason}): type unset JAX_PLATFORMS"
        return
    line = f"devices: {len(found)} x {found[0].device_kind} ({found[0].platform})"
    if found[0].platform == "cpu":
        line += "; for a GPU or a TPU type pip install -e '.[gpu]' or '.[tpu]'"
    yield True, line


def packages() -> Iterator[tuple[bool, str]]:
    """What is needed always, and for each extra of pyproject.toml."""
    try:
        extras = metadata.metadata(_PROJECT).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        yield False, "packages: this checkout is not installed: type pip install -e ."
        return
    for extra in ("", *extras):
        missing = sorted(set(lacking(_PROJECT, extra)))
        what = f"extra {extra}" if extra else "packages"
        place = f"'.[{extra}]'" if extra else "."
        says = f"lacks {', '.join(missing)}: type pip install -e {place}"
        yield bool(extra) or not missing, f"{what}: {says if missing else 'all there'}"


def lacking(package: str, extra: str) -> Iterator[str]:
    """The requirements of a package, or of one of its extras, that are not met here."""
    for text in metadata.requires(package) or []:
        wanted = requirements.Requirement(text)
        marker = wanted.marker
        of_extra = marker is not None and "extra" in str(marker)
        if of_extra != bool(extra) or (
            marker and not marker.evaluate({"extra": extra})
        ):
            continue
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            yield wanted.name
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            yield f"{wanted.name}{wanted.specifier} (there is {version})"
        for inner in sorted(wanted.extras):
            yield from lacking(wanted.name, inner)


def data() -> Iterator[tuple[bool, str]]:
    """CIFAR-10 where it is looked for when data.dir is empty."""
    place = cifar10.prepared()
    yield (
        True,
        f"CIFAR-10: {place}"
        if place
        else "CIFAR-10: TFDS has none: type --config.data.dir=FOLDER for one that has "
        "the official batches, or pip install -e '.[train]' and TFDS fetches it",
    )


def weights() -> Iterator[tuple[bool, str]]:
    """The files of the feature networks, in the folders where they are looked for."""
    for name in extraction.NAMES:
        if name == "pixels":  # the image itself
            continue
        try:
            found = locate.find(extraction.known_files(name))
            yield True, f"weights of {name}: {found.path}"
        except (ValueError, OSError) as error:
            yield True, f"weights of {name}: {error}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
