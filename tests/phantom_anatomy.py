"""The anatomy of the phantom: head, neck and shoulders with all 22 organs, in painting order.

Lengths are millimetres in the head frame: x to the patient's left, y to the back, z to the top,
origin midway between the ear canals. Sizes follow adult anatomy and the organ volumes usual in
radiotherapy contouring, to within a third or so; this is a test object, not an atlas.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

from model.organs import BY_NAME
from tests.phantom_shapes import Capsule, Clipped, Ellipsoid, Layer, Points, Pose, Shape, tube

AIR_HU, FAT_HU, MUSCLE_HU, FLUID_HU = -1000.0, -100.0, 55.0, 10.0
CORTEX_HU, MARROW_HU = 1100.0, 250.0
SIDES = (("left", 1), ("right", -1))


@dataclass
class Variation:
    """Draws how one patient differs from the average one; ``amount`` 0 gives the average one."""

    rng: np.random.Generator
    amount: float

    def number(self, spread: float) -> float:
        return self.amount * float(self.rng.uniform(-spread, spread))

    def factor(self, spread: float) -> float:
        return 1 + self.number(spread)

    def shift(self, spread_mm: float) -> Points:
        return self.amount * self.rng.uniform(-spread_mm, spread_mm, 3)

    def chance(self, probability: float) -> bool:
        return bool(self.amount and self.rng.random() < probability)


@dataclass
class Canvas:
    """Collects layers; everything painted here is mirrored, moved and sized by its methods."""

    vary: Variation
    layers: list[Layer] = field(default_factory=list)

    def add(self, shapes: Shape | Sequence[Shape], hu: float, organ: str | None = "") -> None:
        """Paint shapes; ``organ`` "" is no organ, None keeps whatever organ is there."""
        label = None if organ is None else BY_NAME[organ].label if organ else 0
        for shape in shapes if isinstance(shapes, Sequence) else [shapes]:
            self.layers.append(Layer(shape, hu, label))


def moved(points: Points, x: float, y: float, z: float) -> Points:
    """A point, or each of ``(N, 3)`` points, moved by millimetres in the head frame."""
    there: Points = points + np.array([x, y, z])
    return there


def average_pose() -> Pose:
    return Pose(
        position_mm=np.zeros(3),
        scale=np.ones(3),
        turn=np.eye(3),
        wave_mm=np.zeros(3),
        wave_phase=np.zeros(3),
    )


def varied_pose(vary: Variation) -> Pose:
    """Place, size, nod (pitch), tilt (roll) and turn (yaw) of one patient on the couch."""
    size = vary.factor(0.06)
    pitch, roll, yaw = vary.number(9), vary.number(4), vary.number(5)
    return Pose(
        position_mm=vary.shift(10.0),
        scale=np.array([size * vary.factor(0.04) for _ in range(3)]),
        turn=Rotation.from_euler("xyz", [pitch, roll, yaw], degrees=True).as_matrix(),
        wave_mm=vary.shift(2.5),
        wave_phase=vary.rng.uniform(0, 2 * np.pi, 3),
    )


def anatomy(vary: Variation) -> tuple[Layer, ...]:
    """All layers of one patient, in painting order."""
    canvas = Canvas(vary)
    _outline(canvas)
    _neck(canvas)
    _skull_and_brain(canvas)
    _face(canvas)
    _parotids(canvas)
    _mandible_and_teeth(canvas)
    _ears(canvas)
    _spine(canvas)
    _orbits_and_sella(canvas)
    return tuple(canvas.layers)


def _outline_shapes(grow: float) -> Iterator[Shape]:
    """The skin, moved outwards by ``grow`` mm."""
    g = grow
    yield Ellipsoid((0, 0, 46), (77 + g, 98 + g, 86 + g))  # cranium
    yield Ellipsoid((0, -4, -12), (74 + g, 52 + g, 62 + g))  # temples, ears, parotids
    yield Ellipsoid((0, -42, -14), (66 + g, 57 + g, 66 + g))  # cheeks
    yield Ellipsoid((0, -50, -38), (57 + g, 46 + g, 62 + g))  # jaw
    yield Ellipsoid((0, -68, 2), (48 + g, 33 + g, 72 + g), boxy=True)  # brow to lips
    yield Capsule((0, -94, 14), (0, -114, -14), 5 + g, 8 + g, (1, 1, 1.2))  # nose
    yield Ellipsoid((0, -80, -80), (30 + g, 20 + g, 22 + g))  # chin
    yield Capsule((0, -64, -80), (0, -36, -104), 24 + g, 22 + g)  # floor of the mouth
    yield Capsule((0, -30, -98), (0, -10, -205), 32 + g, 36 + g)  # throat
    yield from tube(
        [(0, 16, -25), (0, 18, -110), (0, 26, -165), (0, 34, -205)],
        [64 + g, 59 + g, 63 + g, 78 + g],
    )
    yield Ellipsoid((0, 40, -262), (150 + g, 92 + g, 106 + g), boxy=True)  # chest
    for _, s in SIDES:
        yield Capsule(
            (40 * s, 30, -175), (165 * s, 42, -222), 48 + g, 52 + g
        )  # trapezius, shoulder
        yield Capsule((168 * s, 42, -222), (182 * s, 48, -340), 52 + g, 46 + g)  # upper arm


def _outline(c: Canvas) -> None:
    """Immobilisation mask, skin, fat and muscle."""
    thickness = 1.8
    for shape in _outline_shapes(4.0 + thickness):  # a thermoplastic sheet over the front half
        c.add(Clipped(shape, 1, 10.0, -1), -60)
    for shape in _outline_shapes(4.0):
        c.add(Clipped(shape, 1, 11.0, -1), AIR_HU)
    for _, s in SIDES:
        c.add(Ellipsoid((76 * s, 14, 2), (7, 15, 30)), 0)  # auricle
    c.add(list(_outline_shapes(0)), 20)
    fat = -3.5 * c.vary.factor(0.4)
    c.add(list(_outline_shapes(-1.8)), FAT_HU + 5)
    c.add(list(_outline_shapes(fat - 1.8)), MUSCLE_HU + c.vary.number(8))


def _neck(c: Canvas) -> None:
    """Fat planes, muscles, vessels, airway, thyroid, shoulder bones, lung tips."""
    v = c.vary
    c.add(tube([(0, 2, -52), (0, 8, -110), (0, 18, -160)], [46, 45, 46]), FAT_HU + 20)
    for _, s in SIDES:
        muscle = MUSCLE_HU + v.number(6)
        c.add(  # sternocleidomastoid
            tube([(56 * s, 20, -25), (47 * s, 2, -85), (16 * s, -30, -165)], [9, 11, 7]), muscle
        )
        c.add(tube([(19 * s, 53, -34), (20 * s, 56, -170)], [16, 18], (1, 0.9, 1)), muscle)
        c.add(tube([(37 * s, 42, -40), (42 * s, 46, -190)], [10, 14]), muscle)
        c.add(tube([(22 * s, 10, -50), (34 * s, 28, -180)], [11, 13]), muscle)  # scalenes
        c.add(tube([(38 * s, 0, -25), (30 * s, -2, -110), (22 * s, 8, -200)], [6, 7, 7]), 60)
        c.add(tube([(30 * s, -8, -25), (22 * s, -8, -100), (14 * s, 2, -210)], [4, 4, 5]), 70)
        c.add(Ellipsoid((27 * s, -38, -82), (12, 17, 14)), 40 + v.number(15))  # submandibular gland
        c.add(Ellipsoid((21 * s, -22, -142), (9, 10, 22)), 110 + v.number(25))  # thyroid
        for level in range(4):  # ribs and clavicle
            z = -212 - 26 * level
            c.add(
                tube([(20 * s, 60, z), (90 * s, 40, z - 16), (60 * s, -30, z - 40)], [5, 5, 5]), 500
            )
        c.add(Ellipsoid((55 * s, 30, -262), (45, 58, 52)), -820)  # lung tip
        clavicle = [(14 * s, -32, -200), (80 * s, -16, -196), (150 * s, 20, -200)]
        c.add(tube(clavicle, [8, 6, 7]), 700)
        c.add(Ellipsoid((172 * s, 36, -222), (23, 23, 22)), 450)  # head of humerus
        c.add(Capsule((150 * s, 60, -215), (95 * s, 92, -300), 8, 6, (1, 1, 2)), 500)  # scapula
        c.add(Capsule((180 * s, 40, -235), (186 * s, 46, -350), 13, 11), 900)
    c.add(  # tongue and floor of the mouth
        [Ellipsoid((0, -50, -52), (26, 34, 22)), Ellipsoid((0, -48, -74), (27, 30, 12))], 62
    )
    airway = 1 + v.number(0.25)
    c.add(tube([(0, -28, -78), (0, -38, -108), (0, -38, -126)], [15, 18, 16]), 50)  # larynx
    for _, s in SIDES:
        c.add(Capsule((18 * s, -30, -112), (5 * s, -56, -106), 2.5, 2.5, (1, 1, 4)), 180)
        c.add(Capsule((0, -46, -88), (20 * s, -22, -84), 3, 2.5), 500)  # hyoid
    c.add(  # pharynx and trachea
        tube(
            [
                (0, -30, -18),
                (0, -24, -50),
                (0, -23, -85),
                (0, -34, -112),
                (0, -32, -150),
                (0, -8, -240),
            ],
            [9 * airway, 8 * airway, 7 * airway, 6, 9, 10],
            (1.3, 0.8, 1),
        ),
        AIR_HU,
    )
    c.add(tube([(0, -8, -125), (0, 12, -240)], [7, 8]), 40)  # oesophagus


def _skull_and_brain(c: Canvas) -> None:
    v = c.vary
    grey = 37 + v.number(3)

    def vault(grow: float) -> Iterator[Shape]:
        g = grow
        yield Clipped(Ellipsoid((0, 2, 48), (66 + g, 84 + g, 72 + g)), 2, 28 - g, 1)
        yield Ellipsoid((0, 40, 6), (53 + g, 43 + g, 34 + g))  # posterior fossa
        for _, s in SIDES:
            yield Ellipsoid((41 * s, -18, 20), (24 + g, 36 + g, 21 + g))  # middle fossa
        yield Ellipsoid((0, -8, 25), (22 + g, 30 + g, 14 + g))

    bone = 6.5 * v.factor(0.2)
    c.add(list(vault(bone)), CORTEX_HU + v.number(100))
    c.add(list(vault(bone * 0.7)), 500)
    c.add(list(vault(bone * 0.35)), CORTEX_HU)
    c.add(list(vault(0)), FLUID_HU)
    c.add(list(vault(-1.8)), grey)
    c.add(Ellipsoid((0, 22, 33), (12, 20, 5)), FLUID_HU)  # quadrigeminal cistern
    for _, s in SIDES:
        c.add(Ellipsoid((30 * s, 4, 62), (22, 52, 28)), grey - 8)  # white matter
        ventricle = [(7 * s, -28, 62), (9 * s, 0, 70), (24 * s, 34, 56)]
        c.add(tube(ventricle, [5, 4.5, 6]), 8)
        c.add(Ellipsoid((13 * s, -4, 52), (9, 17, 9)), grey + 3)  # thalamus
    c.add(Capsule((0, -50, 88), (0, 55, 88), 1.2, 1.2, (1, 1, 9)), 30)  # falx
    for side, s in SIDES:  # temporal lobes, each under a sylvian fissure
        move, size = v.shift(1.2), np.array([v.factor(0.06) for _ in range(3)])
        centre = np.array([42 * s, -17, 20]) + move
        organ, lobe = f"temporal_lobe_{side}", Ellipsoid(centre, np.array([20, 34, 20]) * size)
        c.add(Ellipsoid(moved(centre, 0, 0, 1.5), np.array([21, 35, 21.5]) * size), FLUID_HU)
        c.add(Clipped(lobe, 2, 1.5, 1), 39 + v.number(3), organ)  # its floor is the middle fossa's
        c.add(Capsule(moved(centre, 0, -16, 0), moved(centre, 0, 14, 2), 7, 8), 31, organ)
    c.add(Ellipsoid((0, 44, 2), (46, 32, 24)), grey + 1)  # cerebellum
    c.add(Ellipsoid((0, 20, 8), (7, 5, 9)), FLUID_HU)  # fourth ventricle
    # clivus and body of the sphenoid, then what they hold
    c.add(tube([(0, -12, 8), (0, 4, -27)], [8, 5], (1.7, 0.9, 1)), 800)
    c.add(Ellipsoid((0, -33, 0), (22, 20, 15), boxy=True), 700)
    if not v.chance(0.15):
        c.add(Ellipsoid((3 * v.number(1), -36, -3), (14 * v.factor(0.2), 13, 9)), AIR_HU)
    c.add(  # cisterns in front of the brainstem and the foramen magnum
        tube([(0, 0, 24), (0, 5, 8), (0, 16, -16), (0, 21, -36)], [18, 18, 14, 12]), FLUID_HU
    )
    width = v.factor(0.08)
    c.add(
        tube(
            [(0, 1, 27), (0, 3, 16), (0, 5, 6), (0, 15, -12), (0, 20, -28)],
            [w * width for w in (13, 14, 15.5, 10, 7)],
            (1.1, 0.95, 0.5),
        ),
        30 + v.number(3),
        "brainstem",
    )


def _face(c: Canvas) -> None:
    """Facial bones, sinuses, nasal cavity, cheek fat, chewing muscles."""
    v = c.vary
    c.add(Ellipsoid((0, -62, 14), (17, 28, 20), boxy=True), 500)  # ethmoid
    for _, s in SIDES:
        c.add(Ellipsoid((58 * s, -38, -16), (8, 22, 15)), FAT_HU + 10)  # temporal fossa fat
        c.add(Ellipsoid((56 * s, -34, -15), (6, 18, 14)), MUSCLE_HU + 5)  # temporalis
        c.add(Capsule((66 * s, -14, -4), (52 * s, -66, -4), 3.5, 5), 900)  # zygomatic arch
        c.add(Ellipsoid((46 * s, -66, -8), (10, 9, 9)), 700)
        c.add(Ellipsoid((47 * s, -52, -34), (9, 14, 18)), FAT_HU)  # buccal fat
        c.add(Capsule((57 * s, -30, -14), (54 * s, -26, -60), 8, 8, (0.8, 1.7, 1)), MUSCLE_HU + 8)
        c.add(Ellipsoid((34 * s, -26, -26), (9, 13, 17)), MUSCLE_HU + 5)  # pterygoids
        c.add(Ellipsoid((29 * s, -58, -17), (17, 19, 18), boxy=True), 600)  # maxilla
        fluid = v.chance(0.12)
        antrum = Ellipsoid((29 * s, -57, -16), np.array([14, 16, 15]) * v.factor(0.12), boxy=True)
        c.add(antrum, 20 if fluid else AIR_HU)
        c.add(Ellipsoid((9 * s, -86, 38), np.array([10, 5, 10]) * v.factor(0.3)), AIR_HU)  # frontal
        for step in range(4):  # ethmoid cells
            c.add(Ellipsoid((6 * s, -80 + 12 * step, 14), (4.2, 5, 9)), AIR_HU)
    c.add(Clipped(Ellipsoid((0, -62, -18), (13, 33, 20), boxy=True), 2, -36, 1), AIR_HU)  # nose
    c.add(Ellipsoid((1.5 * v.number(1), -64, -14), (1.2, 31, 20), boxy=True), 150)  # septum
    for _, s in SIDES:
        c.add(
            Capsule((8 * s, -84, -22), (8 * s, -46, -22), 3.5, 3.5, (0.8, 1, 1.6)), 45
        )  # turbinate
    c.add(Clipped(Ellipsoid((0, -62, -37), (24, 30, 4), boxy=True), 2, -40, 1), 700)  # hard palate


def _arch(reach: float, angle: float, z: float) -> tuple[float, float, float]:
    """A point of the dental arch, ``angle`` 0 at the front, 1 at the last molar on the left."""
    turn = angle * np.pi / 2
    return (reach * float(np.sin(turn)), -40 - 46 * float(np.cos(turn)) + 8 * abs(angle), z)


def _mandible_and_teeth(c: Canvas) -> None:
    v = c.vary
    size, hu, open_mm = v.factor(0.1), CORTEX_HU + v.number(150), abs(v.number(4))

    def half(s: int, thinner: float) -> list[Shape]:
        curve = [(0, -84, -77), (12, -82, -77), (24, -72, -74), (38, -44, -68), (46, -20, -58)]
        body = tube(
            [(s * x, y, z) for x, y, z in curve],
            [w * size - thinner for w in (7, 6.5, 6, 6, 7)],
            (1, 1, 1.9),
        )
        ramus = tube(
            [(46 * s, -20, -58), (48.5 * s, -22, -40), (49.5 * s, -22, -26)],
            [w * size - thinner for w in (5.5, 4.8, 4)],
            (1, 2.4, 1.4),
        )
        tips: list[Shape] = [  # up to the joint, and the coronoid process
            Capsule((50 * s, -17, -28), (50.5 * s, -12.5, -11), 4.6 - thinner, 4.8 - thinner),
            Capsule((49 * s, -28, -26), (48 * s, -34, -12), 4.5 - thinner, 3.2 - thinner),
        ]
        # the two halves meet at the midline and never cross it
        return [Clipped(shape, 0, 0.0, s) for shape in (*body, *ramus, *tips)]

    for side, s in SIDES:
        c.add(half(s, 0), hu, f"mandible_{side}")
    for side, s in SIDES:
        c.add(half(s, 2.3), MARROW_HU, f"mandible_{side}")
    upper, lower = -43.0, -54.0 - open_mm
    c.add([Ellipsoid(_arch(28, a, -42), (5, 5, 6)) for a in np.linspace(-1, 1, 17)], 600)
    for position in np.linspace(-1, 1, 14).tolist():
        x, y, _ = _arch(26, position, 0)
        if v.chance(0.12):
            continue  # a lost tooth
        c.add(Capsule((x, y, upper + 2), (x, y, upper - 5), 2.5, 3.6), 1900 + v.number(300))
        c.add(Capsule((x, y + 1, lower + 3), (x, y + 1, lower - 7), 3.6, 2.4), 1900 + v.number(300))
    x, y, _ = _arch(26, 0.7, 0)  # a filling on the left, so that a reader knows the sides
    c.add(Ellipsoid((x, y, upper - 4), (3, 3, 2.5)), 3000)


def _parotids(c: Canvas) -> None:
    v = c.vary
    hu = -12 + v.number(22)
    for side, s in SIDES:
        size = v.factor(0.13) * (1.06 if side == "right" else 0.96)  # the larger one on the right
        centre = np.array([55.5 * s, 0, -34]) + v.shift(1.5)
        lobes: list[Shape] = [
            Ellipsoid(centre, np.array([11.5, 15, 26]) * size),
            Ellipsoid(moved(centre, 4 * s, -13, 2), np.array([5.5, 15, 17]) * size),
            Ellipsoid(moved(centre, -9 * s, -2, -2), np.array([9, 8, 13]) * size),  # deep lobe
        ]
        c.add(lobes, hu + v.number(6), f"parotid_{side}")
        vein = moved(centre, -3 * s, 2, 0)
        c.add(Capsule(moved(vein, 0, 0, 18), moved(vein, 0, 0, -18), 2.2, 2.4), 60, None)


def _ears(c: Canvas) -> None:
    """Petrous bone, mastoid cells, ear canals, middle and inner ears, jaw joints."""
    v = c.vary
    for side, s in SIDES:
        cells = -500 + v.number(350)
        c.add(Capsule((18 * s, -14, 2), (52 * s, 6, 0), 8, 13, (1, 1, 0.9)), 1000 + v.number(150))
        c.add(Ellipsoid((57 * s, 16, -8), (11, 15, 23)), 900)  # mastoid
        c.add(Ellipsoid((57 * s, 16, -8), (8, 12, 18)), 300)
        for z in range(-20, 8, 6):
            c.add(Ellipsoid((57 * s, 14 + 4 * (z % 4 == 0), z), (6, 9, 2.6)), cells)
        c.add(Capsule((58 * s, -10, 3), (44 * s, -12, 3), 6, 7, (1, 1.5, 0.8)), 900)  # socket
        joint, growth = np.array([50.5 * s, -12.5, -4]) + v.shift(0.8), v.factor(0.1)
        c.add(Ellipsoid(joint, np.array([9.5, 7.5, 7.5]) * growth), 850, f"tmj_{side}")
        c.add(
            Ellipsoid(moved(joint, 0, 0, -2), np.array([8.5, 6.5, 6.5]) * growth), 60, None
        )  # disc
        c.add(
            Ellipsoid(moved(joint, 0, 0, -3.5), np.array([7.5, 5, 5]) * growth), 700, None
        )  # condyle
        c.add(Capsule((78 * s, 1, 0), (52 * s, 1, 0), 4, 3.2), -950)  # ear canal
        drum, growth = np.array([47.5 * s, 2, 2]) + v.shift(0.8), v.factor(0.1)
        middle = Ellipsoid(drum, np.array([5.5, 7.5, 8]) * growth)
        c.add(middle, (-50 if v.chance(0.1) else -750) + v.number(80), f"middle_ear_{side}")
        c.add(Ellipsoid(moved(drum, 0, 0, 3), (1.8, 1.8, 2.5)), 500, None)  # ossicles
        cochlea = np.array([34.5 * s, 1, 2]) + v.shift(0.8)
        c.add(Capsule((20 * s, 2, 2), cochlea, 2.6, 2.2), 15)  # internal ear canal
        growth = v.factor(0.1)
        c.add(Ellipsoid(cochlea, np.array([7, 8, 6]) * growth), 1350, f"inner_ear_{side}")
        for dx, dy, dz, radius in ((-2, -4, -1, 2.6), (1, 1, 0, 2.3), (3, 4, 2, 2.0)):
            fluid = Ellipsoid(moved(cochlea, s * dx, dy, dz), (radius, radius, radius))
            c.add(fluid, 150, None)


def _spine(c: Canvas) -> None:
    """Vertebrae around the canal; the cord runs on from the brainstem."""
    v = c.vary
    canal_y = {-30: 20.5, -50: 22, -75: 21, -100: 20, -130: 24, -160: 34, -195: 45, -230: 52}
    canal = np.array([(0.0, y, z) for z, y in canal_y.items()] + [(0, 56, -280)])
    bone = 550 + v.number(150)

    def centre(z: float) -> Points:
        return np.array([0, np.interp(-z, -canal[:, 2], canal[:, 1]), z])

    c.add(tube(moved(canal[1:], 0, -17, 0), [8] * 8, (1.4, 1, 1)), 90)  # discs
    for number, z in enumerate(range(-44, -290, -18)):
        here, wide = centre(z), 1 + 0.025 * number
        if number:
            body = Ellipsoid(moved(here, 0, -17, 0), np.array([13, 9, 7.5]) * wide, boxy=True)
            c.add(body, bone + 250)
            c.add(Ellipsoid(body.centre, np.asarray(body.radii) - 1.8, boxy=True), bone - 250)
        else:
            c.add(Ellipsoid(moved(here, 0, -14, 8), (5, 5, 14)), bone + 200)  # dens
        c.add(Ellipsoid(here, (17, 14, 6), boxy=True), bone + 150)  # arch
        for _, s in SIDES:
            c.add(
                Capsule(moved(here, 15 * s, -6, 0), moved(here, 29 * s * wide, -3, -2), 6, 4), bone
            )
        length = 18 if number < 5 else 30
        c.add(
            Capsule(moved(here, 0, 12, -2), moved(here, 0, 12 + length, -8), 4.5, 3.5), bone + 100
        )
    c.add(tube(canal, [9.5] * len(canal), (1.2, 1, 1)), -20)  # epidural fat and veins
    c.add(tube(canal, [8.3] * len(canal), (1.2, 1, 1)), FLUID_HU + 5)
    thick = v.factor(0.1)
    cord = tube(canal, [4.9 * thick] * len(canal), (1.25, 1, 1))
    below = [Clipped(part, 2, -32.0, -1) for part in cord]  # where the brainstem ends
    c.add(below, 36 + v.number(4), "spinal_cord")


def _orbits_and_sella(c: Canvas) -> None:
    """Orbits with eyes, lenses, muscles and nerves; chiasm and pituitary between them."""
    v = c.vary
    eye_hu, growth = 14 + v.number(5), v.factor(0.05)
    c.add(Ellipsoid((0, -20, 10), (13, 10, 8)), 700)  # sella
    c.add(Ellipsoid((0, -21, 23), (17, 13, 7)), FLUID_HU)  # suprasellar cistern
    chiasm = np.array([0, -22, 22]) + v.shift(0.8)
    for side, s in SIDES:
        eye = np.array([32 * s, -78, 17]) + v.shift(1.2)
        apex = np.array([14 * s, -36, 19])
        for grow, hu in ((3.0, 600), (0.0, FAT_HU + 8)):
            c.add(Capsule(moved(eye, 0, 4, 0), apex, 17 + grow, 4 + grow, (1.05, 1, 1)), hu)
        c.add(Ellipsoid(moved(eye, 0, -13, 0), (17, 6, 13)), 30)  # eyelids
        for dx, dz in ((11, 0), (-11, 0), (0, 11), (0, -11)):
            muscle = [moved(eye, dx, 0, dz), moved((eye + apex) / 2, 0.8 * dx, 0, 0.8 * dz), apex]
            c.add(tube(muscle, [1.6, 2.4, 1.6]), 55)
        end = moved(chiasm, 7 * s, -6, 0)
        nerve = [moved(eye, -2 * s, 8, 0), moved((eye + apex) / 2, -2 * s, 0, 0), apex, end]
        c.add(tube(nerve, [2.5, 2.4, 2.4, 2.4]), 32 + v.number(5), f"optic_nerve_{side}")
        radius = 12.2 * growth
        c.add(Ellipsoid(eye, (radius, radius, radius)), 40, f"eye_{side}")
        c.add(Ellipsoid(eye, (radius - 1.5, radius - 1.5, radius - 1.5)), eye_hu, None)
        gaze = np.array([v.number(2), -8.2, v.number(2)])
        c.add(Ellipsoid(eye + gaze, (4.6, 2.5, 4.6)), 85 + v.number(20), f"lens_{side}")
    for s in (1, -1):
        front, tract = moved(chiasm, 7 * s, -6, 0), moved(chiasm, 9 * s, 8, 1.5)
        c.add(tube([front, chiasm, tract], [2.6, 3.0, 2.4]), 36, "optic_chiasm")
    # the gland lies in its dural bed, so the bone of the sella does not blur into it
    gland = np.array([0, -20, 11.5]) + v.shift(0.6)
    size = np.array([6.8, 5, 4.2]) * v.factor(0.1)
    c.add(Ellipsoid(gland, size + 0.8), 50)
    c.add(Ellipsoid(gland, size), 52 + v.number(6), "pituitary")


@dataclass(frozen=True)
class Patient:
    """One synthetic patient: the same seed is the same patient on every grid."""

    layers: tuple[Layer, ...]
    pose: Pose

    @classmethod
    def born(cls, seed: int, *, variation: float = 1.0) -> "Patient":
        """Args: variation: 0 is the average patient, 1 a cohort as varied as a clinic's."""
        vary = Variation(np.random.default_rng([seed, 22]), variation)
        pose = varied_pose(vary) if variation else average_pose()
        return cls(anatomy(vary), pose)


def couch(half_width: float = 240.0) -> tuple[Layer, ...]:
    """The couch and its head rest, in the room's frame: they do not move with the patient."""
    slab, core = (half_width, 22.0, 2000.0), (half_width - 4, 19.0, 1996.0)
    return (
        Layer(Ellipsoid((0, 166, 0), slab, boxy=True), -150),
        Layer(Ellipsoid((0, 166, 0), core, boxy=True), -940),
        Layer(Ellipsoid((0, 122, 20), (100, 24, 110), boxy=True), -960),  # foam under the head
    )
