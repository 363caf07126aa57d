"""Draw letters of six alphabets that look half hand-written, and never a digit.

`make_sktl_mini.py` learns from them. They are rendered from the fonts that come with
matplotlib, written anew along their middle lines, and distorted. Letters that could be
taken for a digit (O, l, I, ...) are left out.

    python examples/tools/letters.py

draws a sheet of them, letters.png, in some seconds on one core.
"""

# %% 1. Imports and the alphabets
import argparse
import functools
import string
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy import ndimage

from sktl._networks.mini import SIZE

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
DEJAVU = sorted(path.stem for path in FONTS.glob("DejaVuS*[!y].ttf"))
STIX = "STIXGeneral STIXGeneralBol STIXGeneralItalic STIXGeneralBolIta".split()
COMPUTER_MODERN = "cmb10 cmr10 cmss10 cmti10 cmtt10 cmmi10".split()

LATIN = string.ascii_uppercase + string.ascii_lowercase
GREEK = "αβγεζηλμξπφψωΓΔΛΞΠΣΦΨΩ"
CYRILLIC = "ДЖИЛЦШЩЪЫЬЮЯ"
ARMENIAN = "".join(map(chr, [*range(0x531, 0x557), *range(0x561, 0x587)]))
GEORGIAN = "".join(map(chr, range(0x10D0, 0x10F1)))
HEBREW = "".join(map(chr, range(0x5D0, 0x5EB)))

# Alphabets of STIX for mathematics, by the code of their A: script, bold script,
# sans-serif, slanted sans-serif, monospaced, double-struck.
MATHEMATICAL = (0x1D49C, 0x1D4D0, 0x1D5A0, 0x1D608, 0x1D670, 0x1D538)

# No digit comes in by the back door: letters that could be taken for one are left out
# (and, of the other alphabets, those that could be taken for a Latin letter).
LEFT_OUT = set(
    "OoIl"
    "ԶԼԿՁՅՋՉՍՏՓՑՕգզլծկձհյշոչջսւցօ"  # Armenian
    "აბგევზიკმნპვჰ"  # Georgian
    "\u05d5\u05d6\u05d9\u05da\u05dd\u05df\u05e1\u05e3\u05e8"  # Hebrew
)

# Capital and small letter are one class where they differ in size only.
SAME_SHAPE = {letter: letter.upper() for letter in "csvwxz"}


# %% 2. Glyphs, as distances to the pen's path and to the outline
def list_glyphs():
    """Return (letter, font, character to draw) for everything that is drawn."""
    glyphs = [(c, f, c) for f in DEJAVU + STIX + COMPUTER_MODERN for c in LATIN]
    glyphs += [(c, "cmsy10", c) for c in string.ascii_uppercase]
    for start in MATHEMATICAL:
        glyphs += [(c, "STIXGeneral", chr(start + i)) for i, c in enumerate(LATIN)]
    glyphs += [(c, f, c) for f in DEJAVU + STIX for c in GREEK + CYRILLIC]
    glyphs += [(c, f, c) for f in DEJAVU for c in ARMENIAN + GEORGIAN + HEBREW]
    return [(SAME_SHAPE.get(c, c), f, g) for c, f, g in glyphs if c not in LEFT_OUT]


def open_font(name):
    """Return the font, and the codes of the characters it has."""
    path = str(FONTS / f"{name}.ttf")
    return ImageFont.truetype(path, 96), FT2Font(path).get_charmap()


def draw_glyph(font, character):
    """Return bool (64, 64), the longer side 48 pixels."""
    canvas = Image.new("L", (320, 320))
    ImageDraw.Draw(canvas).text((80, 80), character, font=font, fill=255)
    glyph = ImageOps.contain(canvas.crop(canvas.getbbox()), (48, 48), Image.BILINEAR)
    square = Image.new("L", (64, 64))
    square.paste(glyph, ((64 - glyph.width) // 2, (64 - glyph.height) // 2))
    return np.asarray(square) > 110


def thin(masks):
    """Zhang and Suen's thinning (1984) of many masks (n, h, w) at once."""
    masks, before = masks.copy(), None
    around = ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))
    while before is None or (masks != before).any():
        before = masks.copy()
        for first_pass in (True, False):
            ring = [np.roll(masks, shift, axis=(1, 2)) for shift in around]
            count = np.sum(ring, axis=0)
            turns = np.sum([~ring[i] & ring[(i + 1) % 8] for i in range(8)], axis=0)
            n, e, s, w = ring[0], ring[2], ring[4], ring[6]
            spare = ~(e & s & (n | w)) if first_pass else ~(n & w & (e | s))
            masks &= ~((count >= 2) & (count <= 6) & (turns == 1) & spare)
    return masks


@functools.cache
def make_glyph_maps():
    """Return the letters (n,) and two distance maps (n, 2, 64, 64) of each glyph.

    The first holds distances to the glyph's middle line, where a pen would have gone;
    the second signed distances to its outline, negative inside.
    """
    fonts = {name: open_font(name) for _, name, _ in list_glyphs()}
    glyphs = [g for g in list_glyphs() if ord(g[2]) in fonts[g[1]][1]]
    masks = np.stack([draw_glyph(fonts[name][0], c) for _, name, c in glyphs])
    lines = np.concatenate([thin(part) for part in np.array_split(masks, 8)])
    distance = ndimage.distance_transform_edt
    pen = [distance(~line) for line in lines]
    outline = [distance(~mask) - distance(mask) for mask in masks]
    letters = np.array([letter for letter, _, _ in glyphs])
    return letters, np.stack([pen, outline], axis=1).astype(np.float32)


# %% 3. Distortion: one warp per letter, then the zoom that makes it fill the box
def smooth_fields(n, knots, rng):
    """Return random smooth fields (n, 2, 64, 64): noise at knots, interpolated."""
    noise = torch.from_numpy(rng.normal(size=(n, 2, knots, knots)).astype(np.float32))
    return F.interpolate(noise, (64, 64), mode="bicubic", align_corners=True)


def uniform(low, high, n, rng):
    """Return floats (n, 1, 1, 1)."""
    return torch.from_numpy(rng.uniform(low, high, (n, 1, 1, 1)).astype(np.float32))


def random_warps(n, rng):
    """Return (n, 2, 64, 64): where in the glyph (-1..1) each point takes its ink.

    Rotation, slant, stretch, and two elastic fields, one coarse and one finer. The
    grid is half as large again as the glyph, so that nothing is cut off.
    """
    turn, slant = uniform(-0.3, 0.3, n, rng), uniform(-0.45, 0.45, n, rng)
    stretch = torch.exp(uniform(-0.3, 0.3, n, rng))
    line, c, s = torch.linspace(-1.5, 1.5, 64), torch.cos(turn), torch.sin(turn)
    x, y = stretch * line.view(1, -1), line.view(-1, 1)
    warps = torch.cat([c * x + (slant * c - s) * y, s * x + (slant * s + c) * y], dim=1)
    warps += uniform(0, 0.14, n, rng) * smooth_fields(n, 4, rng)
    return warps + uniform(0, 0.07, n, rng) * smooth_fields(n, 7, rng)


def sample(maps, positions):
    """Read maps (n, c, h, w) at positions (n, 2, h', w') in -1..1, x first."""
    grid = positions.permute(0, 2, 3, 1)
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=True)


def extent(inked):
    """Return middle and half length, in -1..1, of the inked part of (n, 64)."""
    inked, index = inked | ~inked.any(1, keepdim=True), torch.arange(64)
    first = torch.where(inked, index, 64).amin(1).view(-1, 1, 1, 1)
    last = torch.where(inked, index, -1).amax(1).view(-1, 1, 1, 1)
    return (first + last) / 63 - 1, (last - first + 1) / 63


def box_positions(mask, rng):
    """Return (n, 2, 64, 64): the grid on which the letters of `mask` fill a box.

    As segmented characters are cut: centred, the height filling the box or the width
    if that is larger; not quite exactly.
    """
    n = len(mask)
    x, half_width = extent(mask.any(2)[:, 0])
    y, half_height = extent(mask.any(3)[:, 0])
    stretch = torch.exp(uniform(-0.2, 0.2, n, rng))
    height = torch.maximum(half_height, half_width * stretch)
    height = height / uniform(0.86, 1.06, n, rng)
    width = torch.maximum(height / stretch, half_width)
    line = (torch.arange(64) + 0.5) / 32 - 1
    x = x + width * (uniform(-0.08, 0.08, n, rng) + line.view(1, -1))
    y = y + height * (uniform(-0.05, 0.05, n, rng) + line.view(-1, 1))
    return torch.cat([x.expand(n, 1, 64, 64), y.expand(n, 1, 64, 64)], dim=1)


def write_letters(maps, rng):
    """Draw glyph maps (n, 2, 64, 64) as ink in 0..1, (n, 64, 64).

    Two of three are written along the middle line by a pen of random width, the others
    take the font's outline, thinner or bolder. The pen's pressure varies on the way.
    """
    n, maps = len(maps), torch.from_numpy(maps)
    pen = torch.from_numpy(rng.random((n, 1, 1, 1)) < 0.65)
    maps = torch.where(pen, maps[:, :1], maps[:, 1:])
    radius = torch.where(pen, uniform(1.8, 5.5, n, rng), uniform(-0.8, 2.0, n, rng))
    radius = radius * (1 + 0.15 * smooth_fields(n, 4, rng)[:, :1])
    warps = random_warps(n, rng)
    box = box_positions(radius > sample(maps, warps), rng)
    ink = sample(radius, box) - sample(maps, sample(warps, box))
    return torch.sigmoid(2 * ink)[:, 0]


# %% 4. Images of letters
def to_input(image):
    """Scale as the network's preprocessing does."""
    return np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.BILINEAR))


def scan(ink):
    """Make images of 8 x 8 grey values: bits, counted in blocks of 8 x 8."""
    grey = F.avg_pool2d((ink > 0.5).float(), 8).numpy()
    grey = np.rint(grey * 255).astype(np.uint8)
    return np.stack([to_input(image) for image in grey[..., None].repeat(3, axis=-1)])


def shrink(ink, rng):
    """Return ink (64, 64, 1) at a random resolution and place."""
    side = int(rng.choice([8, 10, 12, 16, 20, 28, 32, 48, 64]))
    small = Image.fromarray((ink * 255).astype(np.uint8))
    small = np.asarray(small.resize((side, side), Image.BOX))
    margin = rng.integers(0, max(2, side // 5))
    before = rng.integers(0, margin + 1, 2)
    return (
        to_input(np.pad(small, np.stack([before, margin - before], 1)))[..., None] / 255
    )


def random_colours(grounds, rng):
    """Return the letter's colour and the ground: grey, coloured or a photograph."""
    kind, colour = rng.random(), rng.uniform(0, 255, 3)
    if kind < 0.5:
        dark, light = rng.uniform(0, 60), rng.uniform(150, 255)
        return (light, dark) if rng.random() < 0.6 else (dark, light)
    plain = kind < 0.75
    ground = rng.uniform(0, 255, 3) if plain else to_input(rng.choice(grounds))
    near = abs(colour.mean() - ground.mean()) < 60
    return (colour + 128) % 256 if near else colour, ground


def paint(ink, grounds, rng):
    """Make one image (64, 64, 3) of ink (64, 64), in colours and with noise."""
    ink = shrink(ink, rng)
    colour, ground = random_colours(grounds, rng)
    noise = rng.normal(size=(SIZE, SIZE, 3)) * rng.uniform(0, 18)
    image = ink * colour + (1 - ink) * ground + noise
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def make_letters(n, grounds, rng, scanned=0.7, chunk=1000):
    """Make `n` images uint8 (n, 64, 64, 3) of letters, all equally frequent."""
    letters, maps = make_glyph_maps()
    alphabet = np.unique(letters)
    rows = {letter: np.flatnonzero(letters == letter) for letter in alphabet}
    chosen = np.array([rng.choice(rows[c]) for c in rng.choice(alphabet, n)])
    X = np.empty((n, SIZE, SIZE, 3), np.uint8)
    for start in range(0, n, chunk):
        part = slice(start, start + chunk)
        ink = write_letters(maps[chosen[part]], rng)
        X[part] = scan(ink)
        for i in np.flatnonzero(rng.random(len(ink)) >= scanned):
            X[start + i] = paint(ink[i].numpy(), grounds, rng)
    return {"X": X, "letters": letters[chosen]}


# %% 5. A sheet of them
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", default="letters.png", help="to write")
    rng = np.random.default_rng(0)
    grounds = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    sheet = make_letters(240, grounds, rng)["X"].reshape(12, 20, SIZE, SIZE, 3)
    sheet = sheet.swapaxes(1, 2).reshape(12 * SIZE, 20 * SIZE, 3)
    Image.fromarray(sheet).save(parser.parse_args().file)


if __name__ == "__main__":
    main()
