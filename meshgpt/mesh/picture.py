"""Pictures of meshes without a display: one mesh, a contact sheet of many, a turntable; PNG and GIF files."""

import dataclasses
import difflib
import re
import struct
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any, no_type_check

import numpy as np
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int, UInt8

from meshgpt.config import Config, resolve_config
from meshgpt.errors import ConfigError, DataError, MissingExtraError
from meshgpt.mesh.camera import Camera, Real
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.raster import coverage, edge_distance, rasterize, twice_area

LARGEST_SIZE = 8192
BACK_FACE_OFFSET = 1e-4  # of the depth range: of two faces in one place, the one that looks at us is seen
KEY_LIGHT = np.array([-0.42, 0.62, 0.66])  # from the mesh towards the light; x right, y up, z to the eye; unit length
KEY_COLOUR = np.array([0.64, 0.61, 0.56])  # a little warm,
SKY_COLOUR = np.array([0.16, 0.19, 0.24])  # and a little cool
SHADOW_LEAN = (0.16, -0.12)  # shift of the shadow per unit of height, to the right and away from the eye


@dataclasses.dataclass(frozen=True)
class Style(Config):
    """What a picture looks like. Colours are "#rrggbb".

    front, back: faces seen from outside, and from behind (a flipped winding shows at once).
    line: the wireframe, drawn if `wireframe`, fainter where faces are as small as lines are wide.
    line_width: in thousandths of the picture's shorter side, but never below 0.7 pixels.
    background: colours of its upper and lower edge.
    shadow: darkness of the shadow on the ground, in [0, 1].
    samples: each pixel is the mean of samples x samples.
    """

    front: str = "#afc7ee"
    back: str = "#e8623d"
    line: str = "#16233b"
    background: tuple[str, ...] = ("#fdfdfe", "#e8ecf2")
    wireframe: bool = True
    line_width: Real = 2.0
    shadow: Real = 0.32
    samples: int = 2

    def validate(self) -> None:
        for field in ("front", "back", "line", "background"):
            value = getattr(self, field)
            colours = (value,) if isinstance(value, str) else value
            right_number = len(colours) == (2 if field == "background" else 1)
            are_colours = all(re.fullmatch(r"#[0-9a-fA-F]{6}", colour) for colour in colours)
            self.require(right_number and are_colours, field, 'be "#rrggbb" (two of them for the background)')
        self.require(0 < self.line_width <= 100, "line_width", "lie between 0 and 100")
        self.require(0 <= self.shadow <= 1, "shadow", "lie between 0 and 1")
        self.require(1 <= self.samples <= 8, "samples", "lie between 1 and 8")


@no_type_check
def render(mesh, size=512, camera=None, style=None, face_colors=None, **fields) -> UInt8[np.ndarray, "h w 3"]:
    """One picture of one mesh: flat shading, wireframe, back faces in their own colour, a shadow on the ground.

    size: pixels of a square picture, or (height, width).
    camera, style: a `Camera` and a `Style`; their fields are keywords too: `render(mesh, azimuth=1.0, shadow=0.0)`.
    face_colors: (nf, 3) uint8, colours of the front sides instead of `style.front`.

    The same arguments give the same pixels. A mesh without faces gives the background. Raises `ConfigError` for a
    size, a camera or a style that no picture can have, and for unknown keywords.
    """
    camera, style = _camera_and_style(camera, style, fields)
    height, width = _checked_size(size)
    colours = _checked_colours(face_colors, mesh, style)
    camera = camera.fitted(mesh)
    picture = _background(mesh, camera, style, height, width)
    triangles = _visible_triangles(mesh, camera, height * style.samples, width * style.samples)
    return _compose(picture, _lit(triangles, colours, camera, style), triangles, style)


@dataclasses.dataclass(frozen=True)
class _Triangles:
    """The triangles of a mesh, projected to the (larger) picture of samples.

    points: corners in pixels. nearness: in [0, 1]. drawn: edges that are edges of faces. face: the face each is part
    of. is_back: seen from behind. normals: of the faces, towards the eye.
    """

    points: Float[np.ndarray, "nt 3 2"]
    nearness: Float[np.ndarray, "nt 3"]
    drawn: Bool[np.ndarray, "nt 3"]
    face: Int[np.ndarray, " nt"]
    is_back: Bool[np.ndarray, " nt"]
    normals: Float[np.ndarray, "nt 3"]


def split_faces(
    mesh: Mesh,
) -> tuple[Int[np.ndarray, "nt 3"], Bool[np.ndarray, "nt 3"], Int[np.ndarray, " nt"]]:
    """Triangles of a mesh, whether each of their edges is an edge of the face, and the face each is part of.

    A quad is cut along the diagonal whose smaller half is larger, so that concave quads are cut inside.
    """
    if mesh.corners == 3:
        return mesh.faces, np.ones(mesh.faces.shape, dtype=bool), np.arange(mesh.num_faces)
    is_quad = mesh.faces[:, 3] >= 0
    quads = mesh.faces[is_quad]
    corners = mesh.vertices[quads]
    toward = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
    sides = np.roll(corners, -1, axis=1) - corners
    at_corner = (np.cross(np.roll(sides, 1, axis=1), sides) * toward[:, None]).sum(axis=-1)  # halves cut off at each
    cut_at_next = np.minimum(at_corner[:, 0], at_corner[:, 2]) > np.minimum(at_corner[:, 1], at_corner[:, 3])
    quads = np.where(cut_at_next[:, None], np.roll(quads, -1, axis=1), quads)
    triangles = np.concatenate((mesh.faces[~is_quad, :3], quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]))
    drawn = np.ones(triangles.shape, dtype=bool)
    first, second = len(triangles) - 2 * len(quads), len(triangles) - len(quads)
    drawn[first:second, 2] = drawn[second:, 0] = False
    return triangles, drawn, np.concatenate((np.flatnonzero(~is_quad), *(np.flatnonzero(is_quad),) * 2))


def _visible_triangles(mesh: Mesh, camera: Camera, height: int, width: int) -> _Triangles:
    triangles, drawn, face = split_faces(mesh)
    projected = camera.project(mesh.vertices)[triangles]
    kept = np.isfinite(projected).all(axis=(1, 2))
    projected, drawn, face = projected[kept], drawn[kept], face[kept]
    points = _to_pixels(projected[..., :2], height, width)
    is_back = twice_area(points) > 0  # y runs down in pixels
    depth = projected[..., 2]
    low, high = (depth.min(), depth.max()) if depth.size else (0.0, 1.0)
    nearness = (depth - low) / ((high - low) or 1.0) * (1 - BACK_FACE_OFFSET)
    nearness = nearness + np.where(is_back, 0.0, BACK_FACE_OFFSET)[:, None]
    normals = mesh.face_normals[face] * np.where(is_back, -1.0, 1.0)[:, None]
    return _Triangles(points, nearness, drawn, face, is_back, normals)


def _to_pixels(projected: np.ndarray, height: int, width: int) -> np.ndarray:
    half = min(height, width) / 2
    return projected * (half, -half) + (width / 2, height / 2)


def _lit(triangles: _Triangles, colours: np.ndarray, camera: Camera, style: Style) -> Float[np.ndarray, "nt 3"]:
    """The colour of each triangle under a key light that goes with the camera and a soft light from the sky."""
    toward_key = triangles.normals @ camera.axes.T @ KEY_LIGHT
    key = ((toward_key + 0.3) / 1.3).clip(0, 1)[:, None] * KEY_COLOUR
    sky = (1 + triangles.normals[:, 1:2]) / 2 * SKY_COLOUR
    colour = np.where(triangles.is_back[:, None], _rgb(style.back), colours[triangles.face])
    return (colour * (0.36 + key + sky)).clip(0, 255)


def _compose(picture: np.ndarray, lit: np.ndarray, triangles: _Triangles, style: Style) -> np.ndarray:
    """The triangles over the background `picture` (h, w, 3), each pixel the mean of its samples."""
    (height, width), samples = picture.shape[:2], style.samples
    seen = rasterize(triangles.points, triangles.nearness, height * samples, width * samples).reshape(-1)
    at = np.flatnonzero(seen >= 0)
    triangle = seen[at]
    pixel = at // (width * samples * samples) * width + at % (width * samples) // samples
    ink = np.zeros(1, dtype=np.float32)
    if style.wireframe:
        half = max(0.7, style.line_width / 1000 * min(height, width)) * samples / 2
        ink = _ink(triangles, triangle, at, width * samples, half)
    covered = np.bincount(pixel, minlength=height * width) / samples**2
    result = rearrange(picture, "h w c -> c (h w)") * (1 - covered)
    for channel, line in enumerate(_rgb(style.line)):
        colour = lit[:, channel].astype(np.float32)[triangle]
        colour += ink * (np.float32(line) - colour)
        result[channel] += np.bincount(pixel, colour, minlength=height * width) / samples**2
    return rearrange((result + 0.5).astype(np.uint8), "c (h w) -> h w c", h=height)


def _ink(triangles: _Triangles, triangle: np.ndarray, pixels: np.ndarray, width: int, half: float) -> np.ndarray:
    """How much of each sample the wireframe covers, in [0, 1]; lines are `half` samples wide on either face beside."""
    distance = edge_distance(triangles.points, triangles.drawn, triangle, pixels, width)
    edges = np.roll(triangles.points, -1, axis=1) - triangles.points
    perimeter = np.hypot(edges[..., 0], edges[..., 1]).sum(axis=1)
    radius = np.abs(twice_area(triangles.points)) / np.maximum(perimeter, 1e-9)  # of the inscribed circle
    strength = (radius / (4 * half)).clip(0.1, 1)
    return (half + 0.5 - distance).clip(0, 1) * strength.astype(np.float32)[triangle]


def _background(mesh: Mesh, camera: Camera, style: Style, height: int, width: int) -> Float[np.ndarray, "h w 3"]:
    """A soft gradient with the shadow of the mesh on the ground, where the ground is seen from above."""
    top, bottom = (_rgb(colour) for colour in style.background)
    share = np.linspace(0, 1, height)[:, None]
    picture = repeat((top + (bottom - top) * share).astype(np.float32), "h c -> h w c", w=width)
    if style.shadow == 0 or camera.elevation <= 0 or not mesh.num_faces:
        return picture
    vertices, (low, _) = mesh.vertices, mesh.bounds
    right, _, eye = camera.axes
    lean = (vertices[:, 1] - low[1])[:, None] * (right * SHADOW_LEAN[0] + eye * SHADOW_LEAN[1])
    on_ground = np.stack((vertices[:, 0] + lean[:, 0], np.full(len(vertices), low[1]), vertices[:, 2] + lean[:, 2]), 1)
    projected = camera.project(on_ground)[split_faces(mesh)[0]]
    projected = projected[np.isfinite(projected).all(axis=(1, 2))]
    dark = coverage(_to_pixels(projected[..., :2], height, width), height, width).astype(np.float32)
    radius = max(1, min(height, width) // 48)
    inside = [np.minimum(np.arange(n), np.arange(n)[::-1]) / (3 * radius) for n in (height, width)]
    faded = np.minimum(np.minimum.outer(*inside), 1).astype(np.float32)  # no hard cut where a shadow leaves the picture
    return picture * (1 - style.shadow * faded * _blurred(dark, radius))[..., None]


def _blurred(image: np.ndarray, radius: int) -> np.ndarray:
    """Three running means along each axis, nearly a Gaussian."""
    for _ in range(6):
        padded = np.pad(image.T, ((radius + 1, radius), (0, 0)))
        total = np.cumsum(padded, axis=0, dtype=np.float32)
        image = (total[2 * radius + 1 :] - total[: -2 * radius - 1]) / (2 * radius + 1)
    return image


def _rgb(colour: str) -> Float[np.ndarray, " 3"]:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float64)


def _camera_and_style(camera: Camera | None, style: Style | None, fields: dict[str, Any]) -> tuple[Camera, Style]:
    """Both configs with the keywords that are their fields; `ConfigError` names a keyword that is neither's."""
    of_camera, of_style = ([field.name for field in dataclasses.fields(kind)] for kind in (Camera, Style))
    for name in fields:
        if name not in of_camera + of_style:
            near = difflib.get_close_matches(name, of_camera + of_style, n=1)
            advice = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(of_camera + of_style)}"
            raise ConfigError(f"pictures have no setting '{name}': {advice}")
    return (
        resolve_config(Camera, camera, {name: value for name, value in fields.items() if name in of_camera}),
        resolve_config(Style, style, {name: value for name, value in fields.items() if name in of_style}),
    )


@no_type_check
def _checked_size(size):
    sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2 or not all(isinstance(n, (int, np.integer)) and 1 <= n <= LARGEST_SIZE for n in sides):
        raise ConfigError(f"size must be pixels, or (height, width), each from 1 to {LARGEST_SIZE}; got {size!r}")
    return int(sides[0]), int(sides[1])


@no_type_check
def _checked_colours(face_colors, mesh, style):
    """(nf, 3) float64 colours of the front sides."""
    if face_colors is None:
        return np.broadcast_to(_rgb(style.front), (mesh.num_faces, 3))
    colours = np.asarray(face_colors)
    if colours.shape != (mesh.num_faces, 3):
        raise DataError(f"face_colors must have shape ({mesh.num_faces}, 3), one colour a face; got {colours.shape}")
    return colours.astype(np.float64)


@no_type_check
def contact_sheet(
    meshes, columns=None, size=256, titles=None, camera=None, style=None, **fields
) -> UInt8[np.ndarray, "h w 3"]:
    """One picture of many meshes, row after row, each in its own square of `size` pixels, on one flat background.

    columns: as many as make the sheet nearly square if not given.
    titles: one short line below each mesh (needs the extra `pictures`); shortened where too long.

    Raises `DataError` for no meshes at all, or another number of titles than of meshes.
    """
    meshes, titles = list(meshes), None if titles is None else [str(title) for title in titles]
    if not meshes:
        raise DataError("a contact sheet needs at least one mesh, got none")
    if titles is not None and len(titles) != len(meshes):
        raise DataError(f"a contact sheet of {len(meshes)} meshes needs as many titles, got {len(titles)}")
    columns = max(1, min(len(meshes), columns or int(np.ceil(np.sqrt(len(meshes))))))
    camera, style = _camera_and_style(camera, style, fields)
    style = dataclasses.replace(style, background=style.background[1:] * 2)  # flat, so that the tiles join
    tiles = [render(mesh, size, camera, style) for mesh in meshes]
    if titles is not None:
        tiles = [_with_title(tile, title, style) for tile, title in zip(tiles, titles, strict=True)]
    blank = np.broadcast_to(_rgb(style.background[1]).astype(np.uint8), tiles[0].shape)
    tiles += [blank] * (-len(tiles) % columns)
    return rearrange(tiles, "(rows columns) h w c -> (rows h) (columns w) c", columns=columns)


def _with_title(tile: np.ndarray, title: str, style: Style) -> np.ndarray:
    """The tile with a line of text in a strip below it."""
    pillow = _pillow("titles on a contact sheet")
    points = max(9, tile.shape[1] // 17)
    font = pillow.ImageFont.load_default(points)
    room = tile.shape[1] - points
    shown = " ".join(title.split())
    while shown and font.getlength(shown) > room:
        shown = shown.removesuffix("…")[:-1].rstrip() + "…" if len(shown) > 1 else ""
    strip = pillow.Image.new("RGB", (tile.shape[1], 2 * points), style.background[1])
    place = (tile.shape[1] / 2, 0.8 * points)
    pillow.ImageDraw.Draw(strip).text(place, shown, fill=style.line, font=font, anchor="mm")
    return np.concatenate((tile, np.asarray(strip)))


@no_type_check
def turntable(mesh, frames=24, size=384, camera=None, style=None, **fields) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Pictures of one full turn about the y axis, all from the same distance; the first is `render`'s azimuth."""
    if not 1 <= frames <= 1000:
        raise ConfigError(f"a turntable has from 1 to 1000 frames, got {frames}")
    camera, style = _camera_and_style(camera, style, fields)
    azimuths = [camera.azimuth + 2 * np.pi * i / frames for i in range(frames)]
    camera = camera.fitted(mesh, azimuths)
    return [render(mesh, size, dataclasses.replace(camera, azimuth=azimuth), style) for azimuth in azimuths]


@no_type_check
def save_png(image, path) -> Path:
    """Writes a picture (h, w, 3) uint8 as a PNG file, and makes its folder; needs no image library."""
    data, path = png_bytes(image), Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@no_type_check
def png_bytes(image) -> bytes:
    """What `save_png` writes."""
    image = _checked_image(image)
    height, width = image.shape[:2]
    above = np.concatenate((np.zeros_like(image[:1]), image[:-1]))
    rows = rearrange(image - above, "h w c -> h (w c)")  # filter 2, "up": the difference to the row above, modulo 256
    filtered = np.pad(rows, ((0, 0), (1, 0)), constant_values=2)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),  # 8 bits, RGB
        (b"IDAT", zlib.compress(filtered.tobytes(), 6)),
        (b"IEND", b""),
    )
    chunks = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@no_type_check
def save_gif(images, path, seconds=4.0) -> Path:
    """Writes pictures of one size as an endless animation that takes `seconds`; needs the extra `pictures`."""
    images, path = [_checked_image(image) for image in images], Path(path)
    if not images or any(image.shape != images[0].shape for image in images):
        raise DataError(f"a GIF needs pictures of one size, got {[image.shape for image in images]}")
    pillow = _pillow("writing a GIF")
    sample = pillow.Image.fromarray(np.concatenate(images[:: max(1, len(images) // 4)]))
    palette = sample.quantize(255)
    no_dither = pillow.Image.Dither.NONE
    frames = [pillow.Image.fromarray(image).quantize(palette=palette, dither=no_dither) for image in images]
    path.parent.mkdir(parents=True, exist_ok=True)
    duration = max(20, round(1000 * seconds / len(frames)))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=duration, loop=0, optimize=False)
    return path


@no_type_check
def _checked_image(image):
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise DataError(f"a picture is uint8 of shape (h, w, 3), got {array.dtype} of shape {array.shape}")
    return array


def _pillow(purpose: str) -> ModuleType:
    """Pillow, with the modules used here; raises `MissingExtraError` where it is not installed."""
    try:
        import PIL.Image
        import PIL.ImageDraw
        import PIL.ImageFont
    except ImportError as error:
        raise MissingExtraError("pillow", "pictures", purpose) from error
    return PIL
