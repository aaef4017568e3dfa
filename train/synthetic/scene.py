"""Scenes of textured sprites over a moving camera, and the renderer that turns them into frames.

World coordinates: x to the right and y down, one unit is the side of the frame at zoom 1, and the frame of a camera at
(0.5, 0.5) shows 0..1. The background spans BACKGROUND_SPAN units around the centre and is reflected beyond.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from train.synthetic.textures import background_texture, sprite_texture

__all__ = ["Scene", "Track", "background_texture", "render", "render_with_visibility", "sprite_texture"]

BACKGROUND_SPAN = 2.0


@dataclass(frozen=True)
class Track:
    """One sprite over T frames.

    Attributes:
        texture: `[S, S, 4]` float32 RGBA in 0..1, the shape in alpha.
        x, y: `[T]` centre in world units.
        size: `[T]` side of the sprite in world units.
        angle: `[T]` radians, positive turns clockwise on the screen (y points down).
        opacity: `[T]` 0..1.
    """

    texture: np.ndarray
    x: np.ndarray
    y: np.ndarray
    size: np.ndarray
    angle: np.ndarray
    opacity: np.ndarray


@dataclass(frozen=True)
class Scene:
    """A background, a camera and sprites; the camera moves the whole world.

    Attributes:
        background: `[Sb, Sb, 3]` float32 in 0..1.
        camera_x, camera_y, zoom: `[T]` centre of the view and its magnification.
        tracks: sprites; later ones are drawn over earlier ones.
        brightness: `[T]` gain on the frame.
        noise: sigma of the pixel noise in units of 0..255.
    """

    background: np.ndarray
    camera_x: np.ndarray
    camera_y: np.ndarray
    zoom: np.ndarray
    tracks: tuple[Track, ...]
    brightness: np.ndarray
    noise: float


def render(scene: Scene, side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a scene: uint8 `[T, side, side, 3]`; `rng` makes the pixel noise and nothing else."""
    return _develop(_composite(scene, side)[0], scene, rng)


def render_with_visibility(scene: Scene, side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Frames as `render`, and float32 `[T, tracks, side, side]`: the share of each pixel that each track covers
    after opacity and occlusion by later tracks."""
    colour, visible = _composite(scene, side)
    return _develop(colour, scene, rng), visible


def _composite(scene: Scene, side: int) -> tuple[Tensor, np.ndarray]:
    """Front to back: colour `[T, 3, side, side]` in 0..1 and visibility `[T, tracks, side, side]`."""
    frames = len(scene.zoom)
    with torch.inference_mode():
        x_world, y_world = _view(scene, side)
        clear = torch.ones(frames, 1, side, side)
        colour = torch.zeros(frames, 3, side, side)
        visible = torch.zeros(frames, len(scene.tracks), side, side)
        for index in reversed(range(len(scene.tracks))):
            track = scene.tracks[index]
            rows, columns = _window(track, scene, side)
            sprite = _draw(track, scene.zoom, x_world[:, :, columns], y_world[:, rows], side)
            free = clear[:, :, rows, columns]
            colour[:, :, rows, columns] += free * sprite[:, :3]
            visible[:, index : index + 1, rows, columns] = free * sprite[:, 3:]
            clear[:, :, rows, columns] = free * (1 - sprite[:, 3:])
        place = torch.empty(frames, side, side, 2)
        place[..., 0] = (x_world - 0.5) * (2 / BACKGROUND_SPAN)
        place[..., 1] = (y_world - 0.5) * (2 / BACKGROUND_SPAN)
        ground = _tensor(scene.background).permute(2, 0, 1).expand(frames, -1, -1, -1)
        colour += clear * F.grid_sample(ground, place, padding_mode="reflection", align_corners=False)
        return colour, visible.numpy()


def _view(scene: Scene, side: int) -> tuple[Tensor, Tensor]:
    """World coordinates of the pixel columns `[T, 1, side]` and rows `[T, side, 1]`."""
    centred = (torch.arange(side) + 0.5) / side - 0.5
    zoom = _tensor(scene.zoom)[:, None, None]
    x = _tensor(scene.camera_x)[:, None, None] + centred[None, None, :] / zoom
    y = _tensor(scene.camera_y)[:, None, None] + centred[None, :, None] / zoom
    return x, y


def _window(track: Track, scene: Scene, side: int) -> tuple[slice, slice]:
    """Rows and columns of the frame that the track can touch at any time (most sprites are small)."""
    reach = 0.75 * track.size * scene.zoom  # half a diagonal, and a pixel to spare
    bounds = []
    for place, camera in ((track.y, scene.camera_y), (track.x, scene.camera_x)):
        centre = (place - camera) * scene.zoom + 0.5
        low, high = np.min(centre - reach) * side - 1, np.max(centre + reach) * side + 1
        bounds.append(slice(int(np.clip(low, 0, side - 1)), int(np.clip(high + 1, 1, side))))
    return bounds[0], bounds[1]


def _draw(track: Track, zoom: np.ndarray, x_world: Tensor, y_world: Tensor, side: int) -> Tensor:
    """One track alone: `[T, 4, rows, columns]`, colour multiplied by alpha and by opacity."""
    angle = _tensor(track.angle)[:, None, None]
    half = _tensor(np.maximum(track.size, 1e-3))[:, None, None] / 2
    cos, sin = angle.cos() / half, angle.sin() / half
    dx = x_world - _tensor(track.x)[:, None, None]
    dy = y_world - _tensor(track.y)[:, None, None]
    place = torch.empty(len(zoom), dy.shape[1], dx.shape[2], 2)
    torch.add(dx * cos, dy * sin, out=place[..., 0])
    torch.sub(dy * cos, dx * sin, out=place[..., 1])
    texture = _tensor(track.texture).permute(2, 0, 1)
    # Colour times alpha before filtering: otherwise the colour outside the mask bleeds into the edge.
    texture = torch.cat([texture[:3] * texture[3:], texture[3:]])[None]
    # Bilinear sampling looks at 2 x 2 texels: halve the texture until a pixel is not much larger than a texel.
    pixels = float(np.mean(track.size * zoom)) * side
    while texture.shape[-1] > 4 and pixels < 0.6 * texture.shape[-1]:
        texture = F.avg_pool2d(texture, 2)
    drawn = F.grid_sample(texture.expand(len(zoom), -1, -1, -1), place, padding_mode="zeros", align_corners=False)
    return drawn * _tensor(track.opacity)[:, None, None, None]


def _develop(colour: Tensor, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Brightness, pixel noise and rounding: uint8 `[T, side, side, 3]`."""
    with torch.inference_mode():
        frames = colour * _tensor(255 * scene.brightness)[:, None, None, None]
        if scene.noise > 0:
            grain = rng.standard_normal(tuple(frames.shape), dtype=np.float32)
            frames.add_(torch.from_numpy(grain), alpha=scene.noise)
        return frames.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def _tensor(array: np.ndarray) -> Tensor:
    return torch.tensor(np.ascontiguousarray(array), dtype=torch.float32)
