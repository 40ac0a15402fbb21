"""The split of a data set into train, valid and test: made once, then frozen under a digest.

Images of one patient are never in two parts, nor are near-duplicates. Within that, every class gets
its share of every part (iterative stratification, Sechidis et al. 2011).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError

FILE: Final = "split.json"
NAMES: Final = ("train", "valid", "test")
FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Split:
    """Image ids per part, sorted."""

    seed: int
    images: Mapping[str, tuple[str, ...]]

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical content; identifies the split in runs, reports and bundles."""
        content = json.dumps(self._content(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    def _content(self) -> dict[str, Any]:
        images = {name: sorted(ids) for name, ids in self.images.items()}
        return {"format": FORMAT, "seed": self.seed, "images": images}

    def to_document(self) -> dict[str, Any]:
        """Return the content of the file."""
        return {**self._content(), "digest": self.digest}

    def image_ids(self, name: str) -> tuple[str, ...]:
        """Return the image ids of one part.

        Raises:
            TrainingError: there is no such part, or it is empty.
        """
        if name not in self.images:
            raise TrainingError(f"there is no split {name!r}, only {', '.join(self.images)}")
        if not self.images[name]:
            raise TrainingError(f"the split {name!r} is empty")
        return self.images[name]


def make_split(
    ids: Sequence[str],
    labels: NDArray[np.bool_],
    groups: Sequence[str],
    *,
    seed: int,
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1),
) -> Split:
    """Divide images into the three parts.

    Args:
        ids: N image ids.
        labels: bool (N, classes), the classes to be spread evenly.
        groups: N names; images of one group stay together (a patient, or the image alone).
        seed: the same seed divides the same images in the same way.
        shares: of train, valid and test, summing to 1.

    Returns:
        The split.

    Raises:
        TrainingError: a part with a share above 0 would be empty.
    """
    # Sorted, so that the result does not depend on the order in which the images are listed.
    order = sorted(range(len(ids)), key=lambda k: ids[k])
    names = list(dict.fromkeys(groups[k] for k in order))
    group_number = {name: k for k, name in enumerate(names)}
    of_group = np.zeros((len(names), labels.shape[1]), np.bool_)
    for k, group in enumerate(groups):
        of_group[group_number[group]] |= labels[k]
    part_of = _assign_groups(of_group, shares, seed)
    images = {
        name: tuple(ids[k] for k in order if part_of[group_number[groups[k]]] == number)
        for number, name in enumerate(NAMES)
    }
    for name, share in zip(NAMES, shares, strict=True):
        if share and not images[name]:
            raise TrainingError(
                f"the split {name!r} would be empty: {len(ids)} images of {len(names)} patients or "
                f"groups cannot be divided {'/'.join(f'{100 * s:.0f}' for s in shares)}",
                hint="Add images, or give the split a larger share.",
            )
    return Split(seed, images)


def _assign_groups(
    labels: NDArray[np.bool_], shares: Sequence[float], seed: int
) -> NDArray[np.int64]:
    """Return the number of the part for each group, i64.

    The algorithm gives each class to the part that lacks it most. This can leave a small part of a
    small data set empty. Such a part then gets its share at random from the largest part.
    """
    # Imported here: scikit-learn takes seconds, and reading a split needs none of it.
    from iterstrat.ml_stratifiers import IterativeStratification  # noqa: PLC0415
    from sklearn.utils import check_random_state  # noqa: PLC0415

    random = check_random_state(seed)
    side = np.asarray(
        IterativeStratification(labels=labels, r=np.asarray(shares), random_state=random), np.int64
    )
    for number, share in enumerate(shares):
        if share and not (side == number).any():
            largest = np.flatnonzero(side == np.bincount(side).argmax())
            count = min(max(1, round(share * len(side))), len(largest) - 1)
            side[random.choice(largest, count, replace=False)] = number
    return side


def load_split(path: Path) -> Split:
    """Load a frozen split from its file, or from the folder of a data set.

    Raises:
        TrainingError: the file is absent, damaged, or was changed after it was frozen.
    """
    file = path / FILE if path.is_dir() else path
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise TrainingError(f"{file} has format {document['format']}, not {FORMAT}")
        images = {name: tuple(map(str, ids)) for name, ids in document["images"].items()}
        split = Split(int(document["seed"]), images)
        digest = document["digest"]
    except FileNotFoundError as error:
        raise TrainingError(
            f"{file} is not there", hint="Make it with `hilum-train data split --data DIR`."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{file} is no split: {error!r}") from error
    if digest != split.digest:
        raise TrainingError(
            f"{file} was changed after it was frozen: its digest is not that of its content",
            hint="Metrics of a changed split cannot be compared. Restore the file.",
        )
    seen = [image for ids in images.values() for image in ids]
    if len(seen) != len(set(seen)):
        raise TrainingError(f"{file} has an image in two splits")
    return split


def save_split(split: Split, path: Path) -> None:
    """Write the split as JSON; the caller provides a path whose replacement is atomic."""
    path.write_text(json.dumps(split.to_document(), indent=1) + "\n", encoding="utf-8")
