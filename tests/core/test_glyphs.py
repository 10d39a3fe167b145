"""The embedded data set holds letters that really differ, drawn as Unicode means them."""

import unicodedata
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from metantk_core.datasets import DataConfig, ImageDataset, glyphs, prepare

CONFUSABLE = [
    "AΑА𐌀ꓮ",  # Latin, Greek, Cyrillic, Old Italic, Lisu
    "BΒВꓐ",
    "EΕЕꓰ",
    "HΗНꓧ",
    "KΚКꓗ",
    "oOοΟоОօՕ๐ꓳ",
    "pPρΡрРꓑ",
    "xXχΧхХꓫ𐌗",
    "cCсСꓚ",
    "sSѕЅꓢՏ",
    "zZΖꓜ",
    "vVνѵᐯꓦ",
    "iıιіI",
    "lIІΙӀאוןا",
    "TΤТꓔ",
    "UՍᑌꓴ",
    "hһհ",
    "nո",
    "qզԛ",
    "gցɡ",
    "jјϳ",
    "ПΠꓵ",
    "кκᴋ",
    "ħћ",
    "Шш",
    "Щщ",
    "ᒪLԼꓡ",
    "ΦФՓ",
    "γү",
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> ImageDataset:
    return prepare(DataConfig(), tmp_path_factory.mktemp("glyphs") / "prepared")


def test_there_are_several_hundred_classes_and_comfortably_more_than_twenty_to_validate_and_test_on(dataset):
    assert len(dataset.train.class_names) >= 300
    assert len(dataset.val.class_names) >= 50
    assert len(dataset.test.class_names) >= 50
    for split in (dataset.train, dataset.val, dataset.test):
        assert (np.bincount(split.labels) == 20).all()


def test_every_class_is_a_letter_without_decomposition(dataset):
    for split in (dataset.train, dataset.val, dataset.test):
        for name in split.class_names:
            assert len(name) == 1
            assert unicodedata.category(name).startswith("L")
            assert unicodedata.normalize("NFKD", name) == name


def test_no_script_is_in_two_splits(dataset):
    scripts = [
        {unicodedata.name(name).split()[0] for name in split.class_names}
        for split in (dataset.train, dataset.val, dataset.test)
    ]
    assert all(scripts)
    for one, other in combinations(scripts, 2):
        assert not one & other


def test_known_look_alikes_never_both_occur(dataset):
    classes = {name for split in (dataset.train, dataset.val, dataset.test) for name in split.class_names}
    for group in CONFUSABLE:
        pairs = [pair for pair in combinations([c for c in group if c != "א"], 2) if set(pair) <= classes]
        assert not pairs


def independent_similarity(members: list[str]) -> np.ndarray:
    """Correlation of letters in the reference typeface, by other means than the module's."""
    font = ImageFont.truetype(glyphs._typeface_file("DejaVuSans"), 200, layout_engine=ImageFont.Layout.BASIC)
    pictures = []
    for character in members:
        canvas = Image.new("L", (800, 500))
        ImageDraw.Draw(canvas).text((200, 150), character, fill=255, font=font)
        ink = np.asarray(canvas, float)
        rows, columns = np.nonzero(ink.any(1))[0], np.nonzero(ink.any(0))[0]
        ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        side = max(ink.shape)
        square = np.zeros((side, side))
        top, left = (side - ink.shape[0]) // 2, (side - ink.shape[1]) // 2
        square[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
        small = np.asarray(Image.fromarray(square).resize((32, 32), Image.Resampling.BOX))
        blurred = np.pad(small, 6)
        kernel = np.exp(-(np.arange(-5, 6) ** 2) / 2)
        for axis in (0, 1):
            blurred = ndimage.convolve1d(blurred, kernel / kernel.sum(), axis=axis, mode="constant")
        pictures.append(blurred.ravel())
    return np.corrcoef(np.array(pictures))


def test_every_two_classes_look_different_in_the_reference_typeface(dataset):
    classes = [name for split in (dataset.train, dataset.val, dataset.test) for name in split.class_names]
    similarity = independent_similarity(classes)
    np.fill_diagonal(similarity, -1)
    row, column = np.unravel_index(similarity.argmax(), similarity.shape)
    # The blur is Pillow's approximation there and exact here: equal to five hundredths.
    assert similarity[row, column] < glyphs.LOOK_ALIKE + 0.05, (classes[row], classes[column])


def test_every_two_classes_differ_by_the_threshold_in_every_reference_typeface():
    similarity = glyphs.similarity(glyphs.letters())
    np.fill_diagonal(similarity, -1)
    assert similarity.max() <= glyphs.LOOK_ALIKE


@pytest.mark.parametrize("pair", ["AА", "oο", "sS", "iі", "ħћ", "кκ"])
def test_similarity_sees_look_alikes(pair):
    members = tuple(letter for letter in glyphs.candidates() if letter.character in pair)
    assert len(members) == 2
    assert glyphs.similarity(members)[0, 1] > glyphs.LOOK_ALIKE


@pytest.mark.parametrize("pair", ["AB", "ЖΨ", "אԲ", "ᐃE"])
def test_similarity_sees_differences(pair):
    members = tuple(letter for letter in glyphs.candidates() if letter.character in pair)
    assert len(members) == 2
    assert glyphs.similarity(members)[0, 1] < 0.7


def test_every_letter_comes_in_at_least_four_typefaces_and_latin_in_many():
    holds = {face: glyphs._characters(face) for face in glyphs.TYPEFACES}
    for letter in glyphs.letters():
        assert len(set(letter.typefaces)) == len(letter.typefaces) >= glyphs.MIN_TYPEFACES
        for face in letter.typefaces:
            assert letter.character in holds[face]
    assert {len(letter.typefaces) for letter in glyphs.letters() if letter.character in "AE"} == {22}


@pytest.mark.parametrize("face", [face for face in glyphs.TYPEFACES if face.startswith("cm")])
def test_computer_modern_draws_the_letters_that_unicode_means(face):
    # TeX's fonts have encodings of their own: each of their letters must look most like itself in another serif face.
    letters = "ABDEGHKLMNQRTYabdefghkmnrty"
    other = "STIXGeneralItalic" if face in ("cmti10", "cmmi10") else "STIXGeneral"

    def pictures(name):
        rows = np.array([glyphs._reference(letter, name) for letter in letters])
        rows -= rows.mean(1, keepdims=True)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    nearest = (pictures(face) @ pictures(other).T).argmax(1)
    assert (nearest == np.arange(len(letters))).mean() > 0.7
    assert glyphs._characters(face) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


def test_symbols_and_letters_of_other_scripts_are_no_candidates():
    for character in "1+ᵃǅéﬁℵªع\u0301"[:-2]:
        assert glyphs.script_of(character) is None
    assert glyphs.script_of("Ж") == "CYRILLIC"
    assert glyphs.script_of("𐌈") == "OLD ITALIC"


def test_images_show_white_ink_on_black_inside_the_frame(dataset):
    for split in (dataset.train, dataset.val, dataset.test):
        images = np.asarray(split.images)
        border = np.concatenate([images[..., 0, :], images[..., -1, :], images[..., :, 0], images[..., :, -1]], -1)
        assert (images.max((1, 2, 3)) > 150).all()
        assert border.mean() < 2
        assert (border.max(axis=(1, 2)) > 128).mean() < 0.01


def test_images_of_a_class_differ(dataset):
    for split in (dataset.train, dataset.val, dataset.test):
        images = np.asarray(split.images).reshape(len(split.class_names), 20, -1)
        for members in images:
            assert len({member.tobytes() for member in members}) == 20


def test_same_configuration_same_bytes_whatever_was_drawn_before(dataset, tmp_path):
    glyphs.glyphs(16, 1, 5, 2).splits()["test"]
    list(glyphs.glyphs(32, 1, 0, 20).splits()["val"].images())[:3]
    again = glyphs.glyphs(32, 1, 0, 20).splits()["test"]
    assert again.class_names == dataset.test.class_names
    for row, image in enumerate(again.images()):
        assert np.array_equal(image, dataset.test.images[row])


def test_another_seed_moves_the_letters_and_rgb_repeats_the_grey():
    first = next(glyphs.glyphs(24, 1, 0, 1).splits()["val"].images())
    other = next(glyphs.glyphs(24, 1, 1, 1).splits()["val"].images())
    rgb = next(glyphs.glyphs(24, 3, 0, 1).splits()["val"].images())
    assert not np.array_equal(first, other)
    assert np.array_equal(rgb, np.repeat(first, 3, axis=0))
