# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""``vllmdctl images``: list, verify and clean up guest images."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from ..ansible_play import Play
from ..errors import USAGE, CtlError, nearest
from ..options import Output, changes, reads
from ..output import Format, emit, human_size, say

app = typer.Typer(rich_markup_mode=None)

_VERSION = re.compile(r"[0-9a-f]{12}")


def _images(play: Play) -> list[dict[str, Any]]:
    """Return what the stores hold. Raises CtlError."""
    from pathlib import PurePosixPath

    from ..ansible import run

    outcome = run(play, ["images"], "images list", quiet=True)
    outcome.check()
    rows = []
    for host, data in sorted(outcome.data().items()):
        found = zip(data["vllmd_image_paths"], data["vllmd_images"], data["vllmd_signed"], strict=True)
        for path, manifest, signed in found:
            if not _VERSION.fullmatch(PurePosixPath(path).name):
                continue  # what a killed build left
            size = sum(each["size_bytes"] for each in manifest["files"].values())
            rows.append(
                {
                    "name": manifest["name"],
                    "version": manifest["version"],
                    "latest": path in data["vllmd_latest"],
                    "created": manifest["created"],
                    "size": human_size(size),
                    "size_bytes": size,
                    "signed": signed,
                    "host": host,
                    "path": path,
                }
            )
    return sorted(rows, key=lambda row: (row["host"], row["name"], row["created"], row["version"]))


@app.command("list")
@reads
def list_(play: Play, output: Output = Format.TABLE) -> None:
    """Show the images that the builders' stores hold."""
    columns = ("name", "version", "latest", "created", "size", "signed", "host")
    emit(output, _images(play), columns, "no images yet; 'vllmdctl runtimes generate' builds one")


@app.command("verify")
@reads
def verify(
    play: Play,
    name: Annotated[
        str | None, typer.Argument(help="An image's name, or NAME/VERSION; all of them by default.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Read every byte of images and compare with their manifests; with trusted keys, check who signed them."""
    from ..ansible import run

    wanted, _slash, version = (name or "").partition("/")
    images = _images(play)
    chosen = [
        {"name": row["name"], "version": row["version"]}
        for row in images
        if not name or (row["name"] == wanted and version in ("", row["version"], "latest" if row["latest"] else ""))
    ]
    if not chosen:
        known = [row["name"] for row in images] + [f"{row['name']}/{row['version']}" for row in images]
        what = f"no image {name!r}" if name else "no image to verify"
        raise CtlError(f"{what}{nearest(name or '', known)}", USAGE)
    outcome = run(play, ["verify"], "images verify", quiet=output is not Format.TABLE, verify_images=chosen)
    if output is not Format.TABLE:
        emit(output, {**outcome.summary(), "images": chosen})
    outcome.check()


@app.command("gc")
@changes
def gc(play: Play, output: Output = Format.TABLE) -> None:
    """Remove old images and caches that nothing needs; --check says what, and how many bytes."""
    from ..ansible import become_root, run
    from ..lock import exclusive

    become_root(play.inventory)
    with exclusive(play.inventory, "images gc"):
        outcome = run(play, ["gc"], "images gc")
    if output is not Format.TABLE:
        emit(output, outcome.summary())
    outcome.check()
    if play.check:
        say("nothing was removed: this was a check")
