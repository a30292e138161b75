"""Named colours, and the perceived difference of two colours (CIE 1976 colour difference)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RGB = tuple[int, int, int]
TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
"""Linear sRGB to CIE XYZ (IEC 61966-2-1), D65."""

WHITE = (0.95047, 1.0, 1.08883)


def xkcd_colours() -> dict[str, RGB]:
    """The 949 colours of the XKCD survey, from matplotlib: name to 8-bit sRGB."""
    from matplotlib.colors import XKCD_COLORS

    return {name.removeprefix("xkcd:"): _rgb(value) for name, value in XKCD_COLORS.items()}


def css4_colours() -> dict[str, RGB]:
    """The 148 named colours of CSS 4, from matplotlib: name to 8-bit sRGB."""
    from matplotlib.colors import CSS4_COLORS

    return {name: _rgb(value) for name, value in CSS4_COLORS.items()}


def lab(rgb: Any) -> NDArray[np.float64]:
    """CIE L*a*b* (D65) of 8-bit sRGB colours: [..., 3] to float64 [..., 3]."""
    import numpy as np

    value: Any = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    x = linear @ np.array(TO_XYZ).T / np.array(WHITE)
    f = np.where(x > (6 / 29) ** 3, np.cbrt(x), x / (3 * (6 / 29) ** 2) + 4 / 29)
    lightness, a, b = 116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])
    return np.stack([lightness, a, b], axis=-1).astype(np.float64)


def differences(rgb: Any) -> NDArray[np.float64]:
    """CIE 1976 colour difference of all pairs of colours: [n, 3] to float64 [n, n]. About 2 is just noticeable."""
    import numpy as np
    from scipy.spatial.distance import cdist

    points = lab(rgb)
    return np.asarray(cdist(points, points), dtype=np.float64)


def nearest_colour(rgb: Any) -> list[str]:
    """The name of the nearest CSS colour by CIE 1976 difference, for each of ``rgb`` [n, 3]."""
    from scipy.spatial.distance import cdist

    named = css4_colours()
    names = list(named)
    nearest = cdist(lab(rgb), lab(list(named.values()))).argmin(axis=1)
    return [names[index] for index in nearest]


def _rgb(value: Any) -> RGB:
    from matplotlib.colors import to_rgb

    red, green, blue = (round(255 * part) for part in to_rgb(value))
    return red, green, blue
