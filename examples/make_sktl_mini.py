"""Make the weights of `sktl_mini`, the backbone that ships with sktl.

The network learns two things at once, from random weights: to tell letters of several
alphabets apart, rendered from the fonts that come with matplotlib and distorted until
they look hand-written, and to tell the ten classes of CIFAR-10 apart. It never sees a
digit, and letters that could be taken for one (O, l, I, Cyrillic Ze, ...) are left out.

Everything is drawn from fixed seeds. Without `--cifar`, torchvision downloads CIFAR-10.

    python examples/make_sktl_mini.py --out sktl_mini.safetensors

takes about half an hour on 2 CPU cores.
"""

# %% 1. Imports and the alphabets
import argparse
import io
import string
import time
import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from skorch.callbacks import LRScheduler

from sktl import FineTunedCNNClassifier

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
DEJAVU = """DejaVuSans DejaVuSans-Bold DejaVuSans-Oblique DejaVuSans-BoldOblique
    DejaVuSansMono DejaVuSansMono-Bold DejaVuSansMono-Oblique DejaVuSerif
    DejaVuSerif-Bold DejaVuSerif-Italic DejaVuSerif-BoldItalic""".split()
STIX = "STIXGeneral STIXGeneralBol STIXGeneralItalic STIXGeneralBolIta".split()
COMPUTER_MODERN = "cmb10 cmr10 cmss10 cmti10 cmtt10 cmmi10".split()


def letters_between(*ranges):
    return "".join(chr(i) for first, last in ranges for i in range(first, last + 1))


GREEK_AND_CYRILLIC = (
    "αβγδεζηθλμξπρφχψωΓΔΘΛΞΠΣΦΨΩ" + "жийлцшщъыьюяБГДЖИЛЦШЩЪЫЬЮЯ"
)
ARMENIAN = letters_between((0x531, 0x556), (0x561, 0x586))
GEORGIAN = letters_between((0x10D0, 0x10F0))
HEBREW = letters_between((0x5D0, 0x5EA))
NKO = letters_between((0x7CA, 0x7E9))
TIFINAGH = letters_between((0x2D30, 0x2D65))
SYLLABICS = "ᐃᐄᐅᐆᐇᐊᐱᐳᑌᑎᑐᑕᑫᑭᑯᑲᒉᒋᒍᒐᒣᒥᒧᒪᓀᓂᓄᓇᓓᓕᓗᓚᓭᓯᓱᓴᔐᔨᕂᕐᕓ"

# Mathematical alphabets of STIX, by the code of their capital A: script, bold script,
# sans-serif, slanted sans-serif, monospaced, double-struck.
MATHEMATICAL = (0x1D49C, 0x1D4D0, 0x1D5A0, 0x1D608, 0x1D670, 0x1D538)

# Could be taken for a digit by their shape, or are nothing but dots.
LEFT_OUT = set("OoIl" "ՕօՅՑցշզԶ" "וןסז" "ვჳჰკ" "ߊߋߗ" "ⴰⵔⵙⵏⵒⵀⴲⵌ" "ⴾⵂⵆⵈⵗⵘⵓⵑⵕ")  # noqa: RUF001

# Capital and small letter are one class where they differ in size only.
SAME_SHAPE = {letter: letter.upper() for letter in "csvwxz"}


# %% 2. Glyphs, as distances to the pen's path and to the outline
def list_glyphs():
    """Return (letter, font, character to draw) for everything that is drawn."""
    latin = string.ascii_uppercase + string.ascii_lowercase
    glyphs = [(c, f, c) for f in DEJAVU + STIX + COMPUTER_MODERN for c in latin]
    glyphs += [(c, "cmsy10", c) for c in string.ascii_uppercase]
    for start in MATHEMATICAL:
        glyphs += [(c, "STIXGeneral", chr(start + i)) for i, c in enumerate(latin)]
    glyphs += [(c, f, c) for f in DEJAVU + STIX for c in GREEK_AND_CYRILLIC]
    glyphs += [(c, f, c) for f in DEJAVU for c in ARMENIAN + GEORGIAN]
    rare = HEBREW + NKO + TIFINAGH + SYLLABICS
    glyphs += [(c, f, c) for f in ("DejaVuSans", "DejaVuSans-Bold") for c in rare]
    return [(SAME_SHAPE.get(c, c), f, g) for c, f, g in glyphs if c not in LEFT_OUT]


def draw_glyph(font, characters, character):
    """Return bool (64, 64), the longer side 48; None if the font lacks it."""
    if ord(character) not in characters or unicodedata.category(character) == "Cn":
        return None
    canvas = Image.new("L", (320, 320))
    ImageDraw.Draw(canvas).text((80, 80), character, font=font, fill=255)
    if canvas.getbbox() is None:
        return None
    glyph = canvas.crop(canvas.getbbox())
    scale = 48 / max(glyph.size)
    width, height = (max(2, round(side * scale)) for side in glyph.size)
    square = Image.new("L", (64, 64))
    glyph = glyph.resize((width, height), Image.BILINEAR)
    square.paste(glyph, ((64 - width) // 2, (64 - height) // 2))
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


def make_glyph_maps():
    """Return the letters (n,) and two distance maps (n, 2, 64, 64) of each glyph.

    The first holds distances to the glyph's middle line, where a pen would have gone;
    the second signed distances to its outline, negative inside.
    """
    fonts, letters, masks = {}, [], []
    for letter, name, character in list_glyphs():
        if name not in fonts:
            path = str(FONTS / f"{name}.ttf")
            known = matplotlib.ft2font.FT2Font(path).get_charmap()
            fonts[name] = ImageFont.truetype(path, 96), known
        mask = draw_glyph(*fonts[name], character)
        if mask is not None:
            letters.append(letter)
            masks.append(mask)
    masks, distance = np.stack(masks), ndimage.distance_transform_edt
    lines = np.concatenate([thin(masks[i : i + 512]) for i in range(0, len(masks), 512)])
    pen = [distance(~line) for line in lines]
    outline = [distance(~mask) - distance(mask) for mask in masks]
    return np.array(letters), np.stack([pen, outline], axis=1).astype(np.float32)


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
    line = torch.linspace(-1.5, 1.5, 64)
    y, x = (line.view(1, -1, 1), line.view(1, 1, -1))
    c, s = torch.cos(turn)[:, 0], torch.sin(turn)[:, 0]
    slant, stretch = slant[:, 0], stretch[:, 0]
    warps = torch.stack(
        [
            c * stretch * x + (slant * c - s) * y,
            s * stretch * x + (slant * s + c) * y,
        ],
        dim=1,
    )
    warps += uniform(0, 0.14, n, rng) * smooth_fields(n, 4, rng)
    return warps + uniform(0, 0.07, n, rng) * smooth_fields(n, 7, rng)


def sample(maps, positions):
    """Read maps (n, c, h, w) at positions (n, 2, h', w') in -1..1, x first."""
    grid = positions.permute(0, 2, 3, 1)
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=True)


def extent(inked):
    """Return middle and half length, in -1..1, of the inked part of (n, 64)."""
    index = torch.arange(64)
    first = torch.where(inked, index, 64).amin(1)
    last = torch.where(inked, index, -1).amax(1)
    first, last = (torch.where(inked.any(1), v, d) for v, d in ((first, 8), (last, 56)))
    return (first + last) / 63 - 1, (last - first + 1) / 63


def box_positions(mask, rng):
    """Return (n, 2, 32, 32): the grid on which the letters of `mask` fill a box.

    As segmented characters are cut: centred, the height filling the box or the width
    if that is larger; not quite exactly.
    """
    n = len(mask)
    x, half_width = (v.view(n, 1, 1, 1) for v in extent(mask.any(2)[:, 0]))
    y, half_height = (v.view(n, 1, 1, 1) for v in extent(mask.any(3)[:, 0]))
    stretch = torch.exp(uniform(-0.2, 0.2, n, rng))
    height = torch.maximum(half_height, half_width * stretch)
    height = height / uniform(0.86, 1.06, n, rng)
    width = torch.maximum(height / stretch, half_width)
    x = x + width * uniform(-0.08, 0.08, n, rng)
    y = y + height * uniform(-0.05, 0.05, n, rng)
    line = (torch.arange(32) + 0.5) / 16 - 1
    x = x + width * line.view(1, 1, 1, -1)
    y = y + height * line.view(1, 1, -1, 1)
    return torch.cat([x.expand(n, 1, 32, 32), y.expand(n, 1, 32, 32)], dim=1)


def write_letters(maps, rng):
    """Draw glyph maps (n, 2, 64, 64) as ink in 0..1, (n, 32, 32).

    Two of three are written along the middle line by a pen of random width, the others
    take the font's outline, thinner or bolder. The pen's pressure varies on the way.
    """
    n = len(maps)
    pen = torch.from_numpy(rng.random((n, 1, 1, 1)) < 0.65)
    maps = torch.from_numpy(maps)
    maps = torch.where(pen, maps[:, :1], maps[:, 1:])
    radius = torch.where(pen, uniform(1.8, 5.5, n, rng), uniform(-0.8, 2.0, n, rng))
    radius = radius * (1 + 0.15 * smooth_fields(n, 4, rng)[:, :1])
    warps = random_warps(n, rng)
    box = box_positions(radius > sample(maps, warps), rng)
    ink = sample(radius, box) - sample(maps, sample(warps, box))
    return torch.sigmoid(2 * ink)[:, 0]


# %% 4. Pictures of letters
def to_32(picture):
    return np.asarray(Image.fromarray(picture).resize((32, 32), Image.BILINEAR))


def scan(ink):
    """Make pictures of 8 x 8 grey values: bits, counted in blocks of 4 x 4."""
    grey = F.avg_pool2d((ink > 0.5).float().unsqueeze(1), 4)[:, 0]
    grey = np.rint(grey.numpy() * 255).astype(np.uint8)
    return np.stack([to_32(picture) for picture in grey[..., None].repeat(3, axis=-1)])


def shrink(ink, rng):
    """Return ink (32, 32, 1) at a random resolution and place."""
    side = int(rng.choice([8, 10, 12, 16, 20, 28, 32]))
    margin = int(rng.integers(0, max(2, side // 5)))
    left, top = rng.integers(0, margin + 1, 2)
    small = Image.fromarray((ink * 255).astype(np.uint8)).resize((side, side), Image.BOX)
    canvas = Image.new("L", (side + margin, side + margin))
    canvas.paste(small, (int(left), int(top)))
    return to_32(np.asarray(canvas))[..., None] / 255


def random_colours(grounds, rng):
    """Return the letter's colour and the ground: grey, coloured or a photograph."""
    kind, colour = rng.random(), rng.uniform(0, 255, 3)
    if kind < 0.5:
        dark, light = rng.uniform(0, 60), rng.uniform(150, 255)
        return (light, dark) if rng.random() < 0.6 else (dark, light)
    ground = rng.uniform(0, 255, 3) if kind < 0.75 else rng.choice(grounds)
    near = abs(colour.mean() - ground.mean()) < 60
    return (colour + 128) % 256 if near else colour, ground


def paint(ink, grounds, rng):
    """Make one picture (32, 32, 3) of ink (32, 32), in colours and with noise."""
    ink = shrink(ink, rng)
    colour, ground = random_colours(grounds, rng)
    noise = rng.normal(size=(32, 32, 3)) * rng.uniform(0, 18)
    picture = ink * colour + (1 - ink) * ground + noise
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def make_letters(n, letters, maps, grounds, rng, scanned=0.7, chunk=1000):
    """Make `n` pictures uint8 (n, 32, 32, 3) and their letters, equally frequent."""
    alphabet = np.unique(letters)
    rows = {letter: np.flatnonzero(letters == letter) for letter in alphabet}
    chosen = np.array([rng.choice(rows[c]) for c in rng.choice(alphabet, n)])
    X = np.empty((n, 32, 32, 3), np.uint8)
    for start in range(0, n, chunk):
        part = slice(start, start + chunk)
        ink = write_letters(maps[chosen[part]], rng)
        X[part] = scan(ink)
        for i in np.flatnonzero(rng.random(len(ink)) >= scanned):
            X[start + i] = paint(ink[i].numpy(), grounds, rng)
    return X, letters[chosen]


# %% 5. CIFAR-10
def read_cifar(path):
    """Return CIFAR-10's training pictures and their class names."""
    if path is None:
        from torchvision.datasets import CIFAR10

        data = CIFAR10("cifar10", train=True, download=True)
        return data.data, np.array(data.classes)[data.targets]
    with np.load(path) as file:
        encoded, offsets = file["train_jpeg"].tobytes(), file["train_offsets"]
        labels = file["classes"][file["train_labels"]]
    bounds = zip(offsets[:-1], offsets[1:], strict=True)
    pictures = [Image.open(io.BytesIO(encoded[a:b])).convert("RGB") for a, b in bounds]
    return np.stack([np.asarray(p) for p in pictures[: len(labels)]]), labels


def vary(pictures, rng):
    """Shift, mirror and recolour pictures (n, 32, 32, 3)."""
    varied = np.empty_like(pictures)
    padded = np.pad(pictures, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
    for i in range(len(pictures)):
        top, left = rng.integers(0, 9, 2)
        picture = padded[i, top : top + 32, left : left + 32]
        picture = picture[:, :: rng.choice([-1, 1])].astype(np.float32)
        shift = rng.uniform(-30, 30) + rng.uniform(-12, 12, 3)
        picture = (picture - 128) * rng.uniform(0.7, 1.3) + 128 + shift
        varied[i] = np.clip(np.rint(picture), 0, 255)
    return varied


# %% 6. All pictures, and the training
def make_pictures(cifar, n_letters, n_photographs, rng):
    """Return X uint8 (n, 32, 32, 3) and y, strings such as letter_A, cifar_cat."""
    photographs, names = read_cifar(cifar)
    letters, maps = make_glyph_maps()
    X, y = make_letters(n_letters, letters, maps, photographs, rng)
    rows = rng.permutation(len(photographs)).repeat(2)[:n_photographs]
    X = np.concatenate([X, vary(photographs[rows], rng)])
    return X, np.concatenate([np.char.add("letter_", y), np.char.add("cifar_", names[rows])])
