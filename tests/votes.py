"""FER+ votes as its csv has them, written by the tests."""

from pathlib import Path

from conftest import COUNTS

from fer_jax.emotions import EMOTIONS

HEADER = (
    "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,"
    "contempt,unknown,NF"
)
PLACES = {name: place for place, name in enumerate(HEADER.split(",")[2:])}
NAMES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear")
# The column of each of our classes.
COLUMN = {"angry": "anger", "happy": "happiness", "sad": "sadness"}


def line(usage="Training", name="fer0.png", **votes):
    counts = [0] * 10
    for answer, count in votes.items():
        counts[PLACES[answer]] = count
    return ",".join([usage, name, *map(str, counts)])


def write_votes(path: Path, lines):
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


def tiny_lines(usages=("Training", "PublicTest", "PrivateTest")):
    """Votes in the order of `write_tiny_csv`, all for the label."""
    return [
        line(usage, **{COLUMN.get(EMOTIONS[label], EMOTIONS[label]): 10})
        for usage in usages
        for label, count in enumerate(COUNTS)
        for _ in range(count)
    ]
