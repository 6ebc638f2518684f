"""Which files are images: by name, by content, and what is said of those that need a plug-in or are none.

>>> is_image_name("holiday.JFIF"), is_image_name("notes.txt")
(True, False)
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import logging
import warnings
from pathlib import PurePath
from typing import IO

from PIL import Image, UnidentifiedImageError

from suffice.errors import InputError

FORMATS: dict[str, tuple[str, ...]] = {
    # Pillow has these at hand; the others are looked for only in what is none of these.
    "JPEG": (".jpg", ".jpeg", ".jfif", ".jpe", ".mpo"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "PPM": (".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "DIB": (".dib",),
    "BLP": (".blp",),
    "CUR": (".cur",),
    "DCX": (".dcx",),
    "DDS": (".dds",),
    "FITS": (".fit", ".fits"),
    "FLI": (".fli", ".flc"),
    "FTEX": (".ftc", ".ftu"),
    "GBR": (".gbr",),
    "ICNS": (".icns",),
    "ICO": (".ico",),
    "IM": (".im",),
    "MSP": (".msp",),
    "PCD": (".pcd",),
    "PCX": (".pcx",),
    "PIXAR": (".pxr",),
    "PSD": (".psd",),
    "QOI": (".qoi",),
    "SGI": (".bw", ".rgb", ".rgba", ".sgi"),
    "SUN": (".ras",),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
    "XBM": (".xbm",),
    "XPM": (".xpm",),
}
"""Pillow's formats that are read, with their suffixes. Left out are those of which Pillow reads no pixels (BUFR, GRIB,
HDF5, MPEG, WMF), which it hands to another program (EPS), or which nothing but trial and error would know."""


@dataclasses.dataclass(frozen=True)
class Plugin:
    """A format that Pillow reads with a package of its own.

    Attributes:
        format: as Pillow calls it; name: as people do.
        suffixes: of its files.
        module, package: to import, and to install.
    """

    format: str
    name: str
    suffixes: tuple[str, ...]
    module: str
    package: str

    @property
    def installed(self) -> bool:
        """Whether its package is here."""
        return importlib.util.find_spec(self.module) is not None

    def register(self) -> None:
        """Let Pillow know it; pillow-jxl-plugin does so as it is imported."""
        module = importlib.import_module(self.module)
        if hasattr(module, "register_heif_opener"):
            module.register_heif_opener()


PLUGINS = (
    Plugin("HEIF", "HEIC", (".heic", ".heif", ".hif"), "pillow_heif", "pillow-heif"),
    Plugin("JXL", "JPEG XL", (".jxl",), "pillow_jxl", "pillow-jxl-plugin"),
)

RAW = (
    *(".dng", ".nef", ".nrw", ".cr2", ".cr3", ".crw", ".arw", ".srf", ".sr2", ".orf", ".rw2", ".raf", ".pef", ".srw"),
    *(".3fr", ".fff", ".iiq", ".dcr", ".kdc", ".mrw", ".x3f", ".erf", ".mef", ".mos", ".rwl"),
)
"""A camera's raw files: many look like a TIFF of which Pillow reads no more than the thumbnail."""

ARRAYS = (".npy", ".npz", ".pt", ".pth")
"""Tensors, such as signals and volumes, which a call of `suffice.explain` in Python takes, and no command does."""

SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
USUAL = ("JPEG", "PNG", "WebP", "TIFF", "GIF", "BMP", "AVIF", "…")

# Pillow logs some errors that it raises as well, and Python prints what no handler takes.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_AT_HAND = tuple(FORMATS)[:5]
_KNOWN_BY_CONTENT = (
    (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  \r\n\x87\n"),
    (b"ftypavif", b"ftypavis", b"WEBP"),
)
"""How the usual formats begin: from the first byte on, and after the size of their first part."""


def is_image_name(name: str) -> bool:
    """Whether a file's name says that it is an image that can be read here."""
    suffix = PurePath(name).suffix.lower()
    return suffix in SUFFIXES or any(suffix in plugin.suffixes and plugin.installed for plugin in PLUGINS)


def is_image_content(head: bytes) -> bool:
    """Whether a file's first bytes are those of a usual format that can be read here."""
    first, later = _KNOWN_BY_CONTENT
    if head.startswith(first) or head[4:12].startswith(later) or head[8:12] in later:
        return True
    plugin = plugin_of(head)
    return plugin is not None and plugin.installed


def plugin_of(head: bytes) -> Plugin | None:
    """The plug-in that a file needs, by its first bytes; None for one that needs none."""
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
        return PLUGINS[0]
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):
        return PLUGINS[1]
    return None


def why_not(name: str) -> str:
    """Why a file of this name is no image that can be read here, in a few words."""
    suffix = PurePath(name).suffix.lower()
    for plugin in PLUGINS:
        if suffix in plugin.suffixes:
            return f"{suffix} ({plugin.name} needs pip install {plugin.package})"
    if suffix in ARRAYS:
        return f"{suffix} (an array: suffice.explain takes it in Python)"
    if suffix in RAW:
        return f"{suffix} (a camera's raw file: export it as JPEG or TIFF)"
    return suffix or "without a suffix"


def opened(file: IO[bytes], name: str) -> Image.Image:
    """An image of any format in `FORMATS`, or of a plug-in; its pixels are not read yet.

    Args:
        file: from its beginning; it stays open.
        name: what messages call it.

    Raises:
        InputError: it is none, or needs a plug-in that is not here.
        Exception: of a dozen types, for a damaged file.
    """
    if PurePath(name).suffix.lower() in RAW:
        raise InputError(f"expected an image ({', '.join(USUAL)}); {name} is a camera's raw file: export it as JPEG")
    if PurePath(name).suffix.lower() in ARRAYS:
        raise InputError(
            f"expected an image ({', '.join(USUAL)}); {name} is an array, which suffice.explain takes in Python"
        )
    file.seek(0)
    plugin = plugin_of(file.read(16))
    if plugin is not None and plugin.installed:
        plugin.register()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata, and from half its size limit on
        try:
            return Image.open(file, formats=_AT_HAND)
        except UnidentifiedImageError:
            pass
        Image.init()
        rest = [*FORMATS, *(each.format for each in PLUGINS)]
        try:
            return Image.open(file, formats=[each for each in rest if each not in _AT_HAND and each in Image.OPEN])
        except UnidentifiedImageError as error:
            fault = "is none"
            if plugin is not None:
                needs = f"needs a plug-in: pip install {plugin.package}, or save it as JPEG or PNG"
                broken = f"{plugin.package} cannot read: it is damaged, or of another kind"
                fault = f"is {plugin.name}, which {broken if plugin.installed else needs}"
            raise InputError(f"expected an image ({', '.join(USUAL)}); {name} {fault}") from error
