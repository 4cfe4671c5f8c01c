"""A parametric thorax: path lengths (cm) of tissues, bones and air on the pixel grid of a film.

Coordinates are centimetres: x grows to the patient's left (the right of the image), y grows
towards the feet, and y = 0 is the level of the lung apices. Depth runs towards the front. Sizes
are those of an average adult, varied by patient (`anatomy`) and by film (`pose`). Shapes are
written for sight, not for dosimetry.
"""

import math
from types import SimpleNamespace as Params

import numpy as np
from scipy import ndimage

SIDES = {"right": -1, "left": 1}  # the patient's side, and the sign of x


# --- shapes -----------------------------------------------------------------------------------


def ramp(value, low, high):
    """0 below low, 1 above high, smooth in between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _dome(distance, width):
    """Thickness profile of a rounded edge: 0 outside, 1 from `width` inside."""
    t = 1 - np.clip(distance / width, 0, 1)
    return np.sqrt(1 - t * t)


def _ellipsoid(x, y, cx, cy, a, b, angle=0.0):
    """Chord through a unit-deep ellipsoid with half-axes a, b (cm), turned by angle (degrees)."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    u, v = (x - cx) * c + (y - cy) * s, (y - cy) * c - (x - cx) * s
    return np.sqrt(np.clip(1 - (u / a) ** 2 - (v / b) ** 2, 0, None))


def _distance(x, y, start, end):
    """Distance (cm) from a line segment."""
    (x0, y0), (x1, y1) = start, end
    dx, dy = x1 - x0, y1 - y0
    t = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
    return np.sqrt((x - x0 - t * dx) ** 2 + (y - y0 - t * dy) ** 2)


def _rod(distance, radius):
    return 2 * np.sqrt(np.clip(radius**2 - distance**2, 0, None))


def _bone_tube(distance, radius):
    """Chord through a bone with a dense shell and marrow inside."""
    return _rod(distance, radius) - 0.6 * _rod(distance, 0.72 * radius)


# --- anatomy ----------------------------------------------------------------------------------


def anatomy(rng: np.random.Generator, sex: str, age: float) -> Params:
    """What stays the same in every film of a patient."""
    woman = sex == "F"
    scale = rng.normal(0.95 if woman else 1.0, 0.035)
    return Params(
        scale=scale,
        fat=min(max(rng.normal(0, 1), -1.8), 2.2),
        cage=rng.normal(13.2, 0.4) * scale,
        height=rng.normal(20.0, 0.9) * scale,
        left_lower=rng.uniform(0.5, 1.8),
        heart=rng.normal(1.0, 0.05) + 0.0015 * (age - 50),
        heart_tilt=rng.uniform(20, 40),
        knob=rng.normal(1.35, 0.12) + 0.006 * (age - 50),
        breast=rng.uniform(1.0, 4.2) if woman else 0.0,
        breast_y=rng.uniform(15.5, 19.0),
        rib_gap=rng.normal(2.35, 0.08) * scale,
        rib_drop=rng.normal(3.6, 0.4) * scale,
        scoliosis=rng.normal(0, 0.35),
        bubble=rng.uniform(0, 2.2),
        vessels=_vessel_tree(rng, scale),
        textures=_textures(rng),
    )


def _vessel_tree(rng, scale) -> list[tuple[np.ndarray, float, float]]:
    """Each generation of lung vessels: points (n, 2), radius and distance between points (cm)."""
    angle = np.tile(np.linspace(-1.3, 1.75, 8), 2) + rng.normal(0, 0.12, 16)  # 0 is sideways
    side = np.repeat([-1.0, 1.0], 8)
    start = np.stack([side * 3.0 * scale, np.full(16, 9.4 * scale)], 1)
    start += rng.normal(0, (0.3, 0.7), start.shape)
    length, generations, steps = 4.8 * scale, [], 48
    for radius in (0.60, 0.42, 0.29, 0.20):
        bend = angle[:, None] + rng.normal(0, 0.3, (angle.size, 1)) * np.linspace(0, 1, steps)
        stride = length / steps * rng.uniform(0.75, 1.2, (angle.size, 1))
        xs = start[:, :1] + side[:, None] * np.cumsum(np.cos(bend) * stride, 1)
        ys = start[:, 1:] + np.cumsum(np.sin(bend) * stride, 1)
        points = np.stack([xs.ravel(), ys.ravel()], 1)
        generations.append((points, radius, length / steps))
        at = np.stack([rng.integers(16, 40, angle.size), np.full(angle.size, steps - 1)], 1)
        row = np.arange(angle.size)[:, None]
        start = np.stack([xs[row, at].ravel(), ys[row, at].ravel()], 1)
        spread = rng.choice([-1, 1], at.shape) * (rng.uniform(0.35, 0.7, at.shape) * (1.0, 0.4))
        angle = (bend[row, at] + spread).ravel()
        side, length = np.repeat(side, 2), length * 0.8
    return generations


def _textures(rng) -> np.ndarray:
    """Unit-variance noise (3, 96, 96) on a 48 cm square: body, coarse and fine lesion texture."""
    fields = []
    for sigma in ((2, 5), (2.6, 2.6), (0.9, 0.9)):  # in half centimetres
        field = rng.standard_normal((96, 96), dtype=np.float32)
        field = ndimage.gaussian_filter(field, sigma, mode="wrap")
        fields.append(field / field.std())
    return np.stack(fields)


def pose(rng: np.random.Generator, body: Params, ap: bool) -> Params:
    """What differs from film to film: position, breath, exposure.

    An anteroposterior (ap) film is taken in bed: a larger heart, higher clavicles, shoulder blades
    over the lungs, a shallower breath, more rotation, scatter and noise.
    """
    breath = min(max(rng.normal(0.88 if ap else 1.0, 0.05), 0.72), 1.1)
    return Params(
        view="AP" if ap else "PA",
        fov=rng.normal(35.0, 1.2) * body.scale,
        centre=(rng.normal(0, 0.6), rng.normal(12.6, 0.8) * body.scale),
        tilt=rng.normal(0, 3.0 if ap else 1.3),
        rotation=rng.normal(0, 6.0 if ap else 2.5),
        breath=breath,
        heart=(1.14 if ap else 1.0) * (1 + 0.3 * (1 - breath)),
        clavicle=rng.normal(2.2 if ap else 3.8, 0.5),
        scapula=rng.uniform(-2.4, -0.8) if ap else rng.uniform(-0.6, 0.9),
        arm=rng.uniform(20.0, 22.0) if ap else rng.uniform(22.0, 27.0),
        scatter=rng.uniform(0.35, 0.6) if ap else rng.uniform(0.15, 0.35),
        photons=10 ** rng.uniform(3.2, 3.9) / (1.5 if ap else 1.0),
        brightness=rng.normal(0, 0.035),
        contrast=rng.normal(1.0, 0.07),
        seed=int(rng.integers(2**32)),
    )


def grid(pose: Params, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Patient coordinates (cm) of every pixel centre."""
    step = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    v, u = np.meshgrid(step * pose.fov, step * pose.fov, indexing="ij")
    c, s = math.cos(math.radians(pose.tilt)), math.sin(math.radians(pose.tilt))
    x, y = u * c + v * s + pose.centre[0], v * c - u * s + pose.centre[1]
    return x.astype(np.float32), y.astype(np.float32)


def _pixels(pose: Params, points: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of points (n, 2) in cm: the inverse of `grid`."""
    dx, dy = (points - pose.centre).T
    c, s = math.cos(math.radians(pose.tilt)), math.sin(math.radians(pose.tilt))
    u, v = dx * c - dy * s, dx * s + dy * c
    return (v / pose.fov + 0.5) * size - 0.5, (u / pose.fov + 0.5) * size - 0.5


def texture(body: Params, pose: Params, layer: int, size: int) -> np.ndarray:
    """One of the patient's noise fields on the film: it moves with the patient, without tilt."""
    step = 2 * pose.fov / size  # the fields have two points a centimetre and start at (-24, -10)
    start = [
        2 * (c + o - pose.fov / 2) + step / 2 for c, o in zip(pose.centre, (24, 10), strict=True)
    ]
    return ndimage.affine_transform(
        body.textures[layer], (step, step), start[::-1], (size, size), order=1, mode="nearest"
    )


def _shift(pose: Params, depth: float) -> float:
    """Sideways shift (cm) of what lies `depth` cm in front of the body's axis when it is turned."""
    return depth * math.sin(math.radians(pose.rotation))


def cage(body: Params, y):
    """Inner half-width of the rib cage at level y."""
    middle = 17.5 * body.scale
    above = np.clip((middle - y) / middle, 0, 1)
    below = np.clip((y - middle) / 12, 0, None)
    return body.cage * (np.maximum(1 - above**2.3, 1e-4) ** 0.52 - 0.03 * below**2)


def medial(y):
    """Half-width of the central mediastinum at level y."""
    return 1.5 + 3.0 * np.exp(-np.clip(y, 0, None) / 2.2)


def diaphragm(body: Params, pose: Params, x, side: int):
    """Level y of the diaphragm; the right dome (side -1) stands higher than the left."""
    top = body.height * pose.breath + (body.left_lower if side > 0 else 0)
    out = (np.abs(x) - 6.8 * body.scale) / (6.4 * body.scale)
    return top + np.where(out > 0, 4.4 * np.abs(out) ** 2.4, 2.0 * out**2)


def soft_tissue(body: Params, pose: Params, x, y) -> np.ndarray:
    s, fat = body.scale, body.fat
    level = np.array([-12, -7, -4.5, -3, -1, 2.5, 6, 10, 16, 24, 36]) * s
    width = np.array([6.2, 6.4, 8.0, 12.0, 17.0, 19.5, 18.2, 15.9, 15.4, 15.2, 15.6]) * s
    depth = np.array([11, 11.5, 12, 12.5, 13.5, 15.5, 18.5, 20.5, 21, 21.5, 22.5]) * s
    rows = np.arange(-16 * s, 40 * s, 0.25)
    width, depth = (ndimage.gaussian_filter1d(np.interp(rows, level, v), 4) for v in (width, depth))
    w = np.interp(y, rows, width + 0.7 * fat).astype(np.float32)
    d = np.interp(y, rows, depth + 1.1 * fat).astype(np.float32)
    trunk = d * np.sqrt(np.clip(1 - (np.abs(x) / w) ** 3, 0, None))
    ax = np.abs(x)
    arm = _rod(_distance(ax, y, (16.2 * s, 2.8 * s), (pose.arm * s, 24 * s)), (4.2 + 0.3 * fat) * s)
    soft = np.maximum(trunk, arm)
    soft += 1.6 * s * _ellipsoid(ax, y, 9.5 * s, 6.5 * s, 7 * s, 4.5 * s, -25)  # pectoral muscle
    if body.breast:
        cy, xb = body.breast_y * s, 7.6 * s
        drop = np.where(y < cy, 6.5, 4.2) * s
        r2 = ((ax - xb) / (6.2 * s)) ** 2 + ((y - cy) / drop) ** 2
        soft += body.breast * np.clip(1 - r2, 0, None) ** np.where(y < cy, 0.9, 0.55)
    return soft


def _mediastinum(body: Params, pose: Params, x, y) -> np.ndarray:
    """Depth (cm) of heart and great vessels, which lean to the patient's left."""
    s, k = body.scale, body.heart * pose.heart
    x = x - _shift(pose, 2.5)
    base = body.height * pose.breath
    parts = (
        (3.2 * k, base - 2.4, 6.4 * k, 4.6 * k, body.heart_tilt, 13.0),  # ventricles
        (-0.5 * k, base - 3.2, 3.5 * k, 5.4 * k, 0, 12.0),  # right atrium
        (1.7 * k, base - 6.0, 2.8 * k, 4.2 * k, -12, 12.0),  # left atrium, outflow tract
        (0.5 * k, base + 0.6, 5.0 * k, 3.0 * k, 0, 12.0),  # base and inferior vena cava
        (1.3, 9.2 * s, 1.9, 3.2, 0, 9.0),  # pulmonary trunk
        (1.5, 5.7 * s, body.knob, body.knob * 1.2, 0, 8.0),  # aortic arch
        (-1.4, 6.0 * s, 1.1, 6.0, 0, 6.0),  # superior vena cava
        (1.8, 13.0 * s, 1.0, 9.0, 0, 4.0),  # descending aorta
    )
    return np.max([d * _ellipsoid(x, y, cx, cy, a, b, t) for cx, cy, a, b, t, d in parts], axis=0)


def lungs(body: Params, pose: Params, x, y) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Depth of lung (cm) on the grid, and the two lung fields as they are outlined on a film."""
    s, ax = body.scale, np.abs(x)
    wall = cage(body, y)
    deep = 15.5 * s * (1 - np.exp(-np.clip(y + 1.6, 0, None) / 4.5))
    cavity = deep * np.sqrt(np.clip(1 - (ax / wall) ** 3.6, 0, None))
    centre = np.abs(x - _shift(pose, 1.0) + 0.2)
    heart = _mediastinum(body, pose, x, y)
    depth = cavity * _dome(centre - medial(y), 2.2) - heart
    above = np.where(
        x < 0, diaphragm(body, pose, x, -1) - y, diaphragm(body, pose, x, 1) - y
    ).astype(np.float32)
    recess = 0.28 * np.exp(np.clip(above, -20, 0) / 1.8)  # lung behind the dome
    depth = np.clip(depth, 0, None) * np.where(above > 0, 0.75 + 0.25 * _dome(above, 4.0), recess)
    field = (cavity > 0.15 * deep) & (above > 0) & (centre > medial(y)) & (heart < 0.1) & (y > 0)
    return depth, {name: _largest(field & (sign * x > 0)) for name, sign in SIDES.items()}


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask."""
    parts, count = ndimage.label(mask)
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:]) if count > 1 else mask


def airways(body: Params, pose: Params, x, y) -> np.ndarray:
    """Depth (cm) of air outside the lungs: trachea, main bronchi, stomach bubble."""
    s = body.scale
    carina = (0.3 + _shift(pose, -1), 7.2 * s)
    wall = [_rod(_distance(x, y, (_shift(pose, 2), -14), carina), 0.95 * s)]
    for end in ((-3.2 * s, 9.8 * s), (3.8 * s, 10.0 * s)):
        wall.append(0.7 * _rod(_distance(x, y, carina, end), 0.6 * s))
    level = body.height * pose.breath + body.left_lower + 1.0
    r = body.bubble
    if r > 0.5:
        gas = 3.0 * _ellipsoid(x, y, 6.0 * s, level + 0.7 * r, 1.6 * r, 0.9 * r)
        wall.append(gas * ramp(level + 1.1 * r - y, 0, 0.3) if pose.view == "PA" else gas)
    return np.max(wall, axis=0)


def vessels(body: Params, pose: Params, size: int) -> np.ndarray:
    """Depth (cm) of blood vessels: each generation's points are spread to its radius."""
    pixel, total = pose.fov / size, np.zeros((size, size), np.float32)
    for points, radius, stride in body.vessels:
        at = _pixels(pose, points * (1, 0.5 + 0.5 * pose.breath), size)
        rows, columns = (np.rint(v).astype(int) for v in at)
        seen = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
        count = np.bincount(rows[seen] * size + columns[seen], minlength=size * size)
        count = count.reshape(size, size).astype(np.float32)
        volume = math.pi * radius**2 * stride / pixel**2  # each point stands for a short cylinder
        density = ndimage.gaussian_filter(count, max(0.55 * radius / pixel, 0.5), truncate=3)
        total += np.minimum(density * volume, 2.5 * radius)
    return total


def _ribs(body: Params, pose: Params, x, y) -> np.ndarray:
    """Ribs as tilted hoops: a posterior arc near the spine's level, an anterior arc further down.

    A hoop with half-width w that falls by `drop` from spine to side is seen at
    y = y_i + drop * (1 -+ sqrt(1 - (x / w)^2)), so each pixel finds its nearest rib directly.
    """
    total = np.zeros_like(x)
    outer = cage(body, y) + 0.45
    for depth, sign, drop in ((-6.0, -1, body.rib_drop), (6.0, 1, 1.7 * body.rib_drop)):
        t = np.clip(np.abs(x - _shift(pose, depth)) / outer, 0, 1)
        side = np.sqrt(np.clip(1 - t * t, 0.004, None))
        index = (y - body.rib_drop - sign * drop * side) / body.rib_gap + 0.35
        nearest = np.clip(np.round(index), 0, 10)
        slope = drop * t / (outer * side)
        gap = (index - nearest) * body.rib_gap / np.sqrt(1 + slope**2)
        fade = 0.75 * ramp(t, 0.4, 0.7) if sign > 0 else ramp(np.abs(x), 1.5, 2.5)
        total += _bone_tube(gap, 0.62) * fade * np.minimum(1 / side, 2.5) * (t < 1) * ramp(y, 0, 1)
    return total


def skeleton(body: Params, pose: Params, x, y) -> np.ndarray:
    """Depth of bone (cm): ribs, spine, clavicles, scapulae, humeri."""
    s, bone = body.scale, 0.62 * _ribs(body, pose, x, y)
    xs = x - _shift(pose, -6) - body.scoliosis * np.sin(y / 9)
    disc = 0.72 + 0.28 * ramp(np.abs((y / 2.3) % 1 - 0.5), 0.05, 0.2)
    bone += 0.8 * disc * _dome(1.7 * s - np.abs(xs), 1.5)
    process = np.hypot((np.abs(xs) - 0.95), ((y / 2.3) % 1 - 0.9) * 2.3)
    bone += 0.5 * _dome(0.45 - process, 0.3)
    xa, ax = np.abs(x - _shift(pose, 7)), np.abs(x)
    along = np.clip((xa - 1.5) / (13.5 * s), 0, 1)
    clavicle = pose.clavicle - 2.4 * along + 0.6 * np.sin(2 * np.pi * along)
    ends = ramp(xa, 1.2, 1.7) * ramp(15.6 * s - xa, 0, 0.6)
    bone += 1.1 * _bone_tube((y - clavicle) * 0.95, 0.8 - 0.2 * along) * ends
    move = pose.scapula
    corner, tip = (15.0 * s + move, 3.0 * s), (13.2 * s + move, 14.5 * s)
    bone += 0.45 * _bone_tube(_distance(ax, y, corner, tip), 0.55)
    plate = ramp(ax - (11.0 * s + move) - 0.12 * (y - 3 * s), 0, 1.0)
    plate *= ramp(corner[0] - 0.157 * (y - 3 * s) - ax, 0, 0.4) * ramp(y, 1.5 * s, 2.5 * s)
    bone += 0.22 * plate * ramp(tip[1] - y, 0, 1.0)
    bone += 0.5 * _bone_tube(_distance(ax, y, (11 * s + move, 3.2 * s), (16.8 * s, -0.3)), 0.65)
    head = (17.2 * s, 2.6 * s)
    shaft = _bone_tube(_distance(ax, y, head, (pose.arm * s + 0.5, 24 * s)), 1.15 * s)
    return bone + np.maximum(0.7 * shaft, 2.2 * _ellipsoid(ax, y, *head, 2.3 * s, 2.4 * s))
