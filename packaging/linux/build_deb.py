"""`make deb`: a Debian package, and the archive that is the per-user installation and the update.

    python packaging/linux/build_deb.py dist/foxden [--out dist]

Both hold the same folder: the bundle, with the scripts and texts of packaging/linux in it.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIB = Path("usr/lib/foxden")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
CONTROL = """\
Package: foxden
Version: {version}
Architecture: {architecture}
Maintainer: Foxden <packages@foxden.invalid>
Installed-Size: {kilobytes}
Depends: libc6 (>= {glibc})
Recommends: ca-certificates
Section: graphics
Priority: optional
Description: your own graphics cards as one private image endpoint
 Lends this PC's graphics card to a private pool when its owner does not need
 it. This package is the small part; what draws the pictures is downloaded for
 the card that is here by `foxden engine install`, into the user's own folder.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--out", type=Path, default=Path("dist"))
    parser.add_argument("--archive-only", action="store_true", help="no .deb")
    parser.add_argument("--level", type=int, default=4, help="of xz: 1 is quick and 8 %% larger")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    complete(args.bundle)
    version = version_of(args.bundle)
    made = [archive(args.bundle, version, args.out, args.level)]
    if not args.archive_only:
        made.append(deb(args.bundle, version, args.out, args.level))
    for path in made:
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


def version_of(bundle: Path) -> str:
    done = subprocess.run([bundle / "foxden", "--version"], capture_output=True, check=True)
    return done.stdout.decode().strip()


def complete(bundle: Path) -> None:
    """Put the scripts, the texts and the icon into the bundle's folder."""
    (bundle / "share").mkdir(exist_ok=True)
    for name in ("foxden.desktop", "foxden-screen.desktop", "foxden.service", "foxden.png"):
        shutil.copy(HERE / name, bundle / "share")
    for name in ("install.sh", "uninstall.sh", "stop.sh"):
        shutil.copy2(HERE / name, bundle)


def archive(bundle: Path, version: str, out: Path, level: int) -> Path:
    """foxden-VERSION-linux-PROCESSOR.tar.xz with one folder `foxden` in it."""
    path = out / f"foxden-{version}-linux-{platform.machine()}.tar.xz"
    words = ["tar", "-C", str(bundle.parent), "--owner=0", "--group=0", "--sort=name", "-cf", "-"]
    with path.open("wb") as stream:
        packing = subprocess.Popen([*words, bundle.name], stdout=subprocess.PIPE)
        # All cores; -4 is 3 % larger than -6 and takes half the time.
        subprocess.run(["xz", "-T0", f"-{level}"], stdin=packing.stdout, stdout=stream, check=True)
        if packing.wait() != 0:
            raise SystemExit("tar failed: see above")
    with tarfile.open(path) as told:
        assert told.next() is not None
    return path


def deb(bundle: Path, version: str, out: Path, level: int) -> Path:
    """The .deb, made by dpkg-deb from a tree as it will lie on the disk."""
    if shutil.which("dpkg-deb") is None:
        raise SystemExit("dpkg-deb is not here: install the package dpkg, or build on Debian.")
    architecture = ARCHITECTURES[platform.machine()]
    path = out / f"foxden_{version}_{architecture}.deb"
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        lay_out(bundle, tree)
        size = sum(f.lstat().st_size for f in tree.rglob("*")) // 1024
        (tree / "DEBIAN").mkdir()
        control = CONTROL.format(
            version=version,
            architecture=architecture,
            kilobytes=size,
            glibc=os.confstr("CS_GNU_LIBC_VERSION").split()[-1],  # type: ignore[union-attr]
        )
        (tree / "DEBIAN/control").write_text(control)
        (tree / "DEBIAN/conffiles").write_text("/etc/xdg/autostart/foxden.desktop\n")
        for name in ("prerm", "postinst"):
            shutil.copy2(HERE / name, tree / "DEBIAN")
        for one in (tree, *tree.rglob("*")):
            if not one.is_symlink():
                one.chmod(0o755 if one.is_dir() or os.access(one, os.X_OK) else 0o644)
        words = [
            "dpkg-deb",
            "--root-owner-group",
            "-Zxz",
            f"-z{level}",
            "--build",
            str(tree),
            str(path),
        ]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return path


def lay_out(bundle: Path, tree: Path) -> None:
    shutil.copytree(bundle, tree / LIB, symlinks=True)
    (tree / LIB / "install.sh").unlink()
    share = tree / LIB / "share"
    for source, target in (
        ("foxden.desktop", "usr/share/applications/foxden.desktop"),
        ("foxden-screen.desktop", "etc/xdg/autostart/foxden.desktop"),
        ("foxden.service", "usr/lib/systemd/user/foxden.service"),
        ("foxden.png", "usr/share/icons/hicolor/256x256/apps/foxden.png"),
    ):
        (tree / target).parent.mkdir(parents=True)
        shutil.copy(share / source, tree / target)
        if not target.endswith(".png"):
            text = (tree / target).read_text()
            (tree / target).write_text(text.replace("@FOXDEN@", "/usr/bin/foxden"))
    shutil.rmtree(share)
    (tree / "usr/bin").mkdir()
    (tree / "usr/bin/foxden").symlink_to("../lib/foxden/foxden")
    about = tree / "usr/share/doc/foxden/copyright"
    about.parent.mkdir(parents=True)
    year = time.gmtime().tm_year
    about.write_text(
        f"Foxden, {year}, Apache-2.0: see /usr/share/common-licenses/Apache-2.0.\n"
        "The libraries in /usr/lib/foxden/_internal carry their own licences in their *.dist-info; "
        "uv is under Apache-2.0 or MIT.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
