"""Data sets of a few real videos each, in the exact layouts and list syntax in which the large ones are published."""

from __future__ import annotations

import csv
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

UCF101 = ["ApplyEyeMakeup", "BasketballDunk", "HandstandPushups"]
HMDB51 = ["brush_hair", "cartwheel", "draw_sword"]
SSV2 = [  # the published templates, whose objects stand in brackets
    "Pushing [something] from left to right",
    "Pushing [something] from right to left",
    "Putting [something] on a surface",
    "Pretending to put [something] into [something]",
]
KINETICS = ["abseiling", "air drumming", "zumba"]
JESTER = ["Swiping Left", "Swiping Right", "Drumming Fingers"]
CODECS = {".avi": "mpeg4", ".mp4": "libx264", ".webm": "libvpx-vp9"}


@dataclass(frozen=True)
class Miniature:
    """A data set on disk, and the truth about it: the paths below `root` and the class of each video of a part."""

    root: Path
    classes: list[str]  # in the order of their numbers
    train: dict[str, str]
    val: dict[str, str]


def ucf101(root: Path, train: int = 3, val: int = 2) -> Miniature:
    """ucfTrainTestlist/ and UCF-101/<class>/v_*.avi; the lists end lines as on Windows, as the published ones do."""
    lists, parts = root / "ucfTrainTestlist", ({}, {})
    for name in UCF101:
        file = name.replace("stand", "Stand")  # v_HandStandPushups_* lies in HandstandPushups
        for i in range(train + val):
            path = f"UCF-101/{name}/v_{file}_g{(8 + i if i < train else 1 + i - train):02d}_c01.avi"
            parts[i >= train][path] = name
            video(root / path, name)
    inside = [{path.split("/", 1)[1]: name for path, name in part.items()} for part in parts]
    lines(lists / "classInd.txt", [f"{i} {name}" for i, name in enumerate(UCF101, 1)], end="\r\n")
    for split in (1, 2, 3):
        numbered = [f"{path} {UCF101.index(name) + 1}" for path, name in inside[0].items()]
        lines(lists / f"trainlist{split:02d}.txt", numbered, end="\r\n")
        lines(lists / f"testlist{split:02d}.txt", list(inside[1]), end="\r\n")
    return Miniature(root, UCF101, *parts)


def hmdb51(root: Path, train: int = 3, val: int = 2) -> Miniature:
    """testTrainMulti_7030_splits/<class>_test_split<n>.txt and <class>/*.avi; the three splits differ."""
    parts: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for name in HMDB51:
        files = [f"#{20 + i}_Rhythm_{name}_u_nm_np1_le_goo_{i}.avi" for i in range(train + val + 1)]
        for i, file in enumerate(files):
            video(root / name / file, name)
            if i < train + val:
                parts[i >= train][f"{name}/{file}"] = name
        for split in (1, 2, 3):
            marks = np.roll([1] * train + [2] * val + [0], split - 1)
            listed = [f"{file} {mark} " for file, mark in zip(files, marks, strict=True)]
            lines(root / "testTrainMulti_7030_splits" / f"{name}_test_split{split}.txt", listed)
    return Miniature(root, HMDB51, *parts)


def ssv2(root: Path, train: int = 3, val: int = 2, new_names: bool = False) -> Miniature:
    """labels/*.json and 20bn-something-something-v2/<id>.webm; the test list has ids alone."""
    plain = [template.replace("[", "").replace("]", "") for template in SSV2]
    names = {part: f"{part}.json" if new_names else f"something-something-v2-{part}.json" for part in SSV2_PARTS}
    parts: tuple[dict[str, str], dict[str, str]] = ({}, {})
    entries: tuple[list[dict], list[dict]] = ([], [])
    for label, template in enumerate(SSV2):
        for i in range(train + val):
            number = str(78687 + 1000 * label + i)
            path = f"20bn-something-something-v2/{number}.webm"
            video(root / path, template)
            parts[i >= train][path] = plain[label]
            objects = ["a cup", "a box"][: template.count("[")]
            label_text = plain[label].lower().replace("something", objects[0], 1)
            entry = {"id": number, "label": label_text, "template": template, "placeholders": objects}
            entries[i >= train].append(entry)
    tests = [{"id": Path(path).stem} for path in parts[1]]
    numbers = {text: str(i) for i, text in enumerate(plain)}
    for part, content in zip(SSV2_PARTS, (numbers, *entries, tests), strict=True):
        write(root / "labels" / names[part], json.dumps(content))
    return Miniature(root, plain, *parts)


SSV2_PARTS = ("labels", "train", "validation", "test")


def kinetics400(
    root: Path, train: int = 3, val: int = 2, flat: bool = False, underscores: bool = False, missing: int = 0
) -> Miniature:
    """{train,val,test}.csv and <split>/<class>/<id>_<start>_<end>.mp4; `flat` as the CVDF copies: no class folders."""
    parts: tuple[dict[str, str], dict[str, str]] = ({}, {})
    rows: tuple[list[list], list[list]] = ([], [])
    for label, name in enumerate(KINETICS):
        for i in range(train + val):
            part, start = ("val" if i >= train else "train"), 10 * i + label
            identity = f"-{label}Ab_c{i}{part[0]}9"
            file = f"{identity}_{start:06d}_{start + 10:06d}.mp4"
            folder = "" if flat else (name.replace(" ", "_") if underscores else name) + "/"
            path = f"{part}/{folder}{file}"
            parts[i >= train][path] = name
            rows[i >= train].append([name, identity, start, start + 10, {"val": "validate"}.get(part, part)])
            if i >= missing:
                video(root / path, name)
    folder = root / "annotations" if flat else root
    header = ["label", "youtube_id", "time_start", "time_end", "split"]
    table(folder / "train.csv", header, rows[0])
    table(folder / "val.csv", header, rows[1])
    table(folder / "test.csv", header[1:], [[*row[1:4], "test"] for row in rows[1]])
    return Miniature(root, KINETICS, *parts)


def jester(root: Path, train: int = 2, val: int = 1) -> Miniature:
    """jester-v1-*.csv with `id;label` lines and 20bn-jester-v1/<id>/00001.jpg ..."""
    parts: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for label, name in enumerate(JESTER):
        for i in range(train + val):
            path = f"20bn-jester-v1/{34870 + 10 * label + i}"
            pictures(root / path, name, "{:05d}.jpg", first=1)
            parts[i >= train][path] = name
    lines(root / "jester-v1-labels.csv", JESTER)
    for part, listed in zip(("train", "validation"), parts, strict=True):
        lines(root / f"jester-v1-{part}.csv", [f"{Path(path).name};{name}" for path, name in listed.items()])
    lines(root / "jester-v1-test.csv", [Path(path).name for path in parts[1]])
    return Miniature(root, JESTER, *parts)


def videomae_csv(root: Path, names: Sequence[str] = KINETICS, train: int = 3, val: int = 2) -> Miniature:
    """train.csv, val.csv, test.csv (the same as val.csv) with `path label` lines and no header; paths hold spaces."""
    parts = _videos(root, "videos", names, train, val)
    for part, listed in zip(("train", "val", "test"), (*parts, parts[1]), strict=True):
        lines(root / f"{part}.csv", [f"{path} {names.index(name)}" for path, name in listed.items()])
    return Miniature(root, [str(i) for i in range(len(names))], *_numbered(parts, names))


def mmaction_rawframes(root: Path, train: int = 2, val: int = 1) -> Miniature:
    """ucf101_{train,val}_split_1_rawframes.txt with `folder frames label`, rawframes/ and label_map.txt."""
    parts: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for name in UCF101:
        for i in range(train + val):
            path = f"rawframes/{name}/v_{name}_g{i + 1:02d}_c01"
            pictures(root / path, name, "img_{:05d}.jpg", first=1)
            parts[i >= train][path] = name
    for part, listed in zip(("train", "val"), parts, strict=True):
        text = [f"{path.split('/', 1)[1]} {FRAMES} {UCF101.index(name)}" for path, name in listed.items()]
        lines(root / f"ucf101_{part}_split_1_rawframes.txt", text)
    lines(root / "label_map.txt", UCF101)
    return Miniature(root, UCF101, *parts)


def class_folders(root: Path, train: int = 3, val: int = 2) -> Miniature:
    """{train,val}/<class>/*.mp4 and no list at all."""
    parts: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for name in KINETICS:
        for i in range(train + val):
            path = f"{'val' if i >= train else 'train'}/{name}/clip {i}.mp4"
            parts[i >= train][path] = name
            video(root / path, name)
    return Miniature(root, KINETICS, *parts)


def table_csv(root: Path, train: int = 3, val: int = 2) -> Miniature:
    """One data.csv with the header path,label,start,end,split, names for labels and trimmed segments."""
    parts = _videos(root, "clips", KINETICS, train, val)
    rows = [
        [path, name, 0.5, 1.5, part]
        for part, listed in zip(("train", "val"), parts, strict=True)
        for path, name in listed.items()
    ]
    table(root / "data.csv", ["path", "label", "start", "end", "split"], rows)
    return Miniature(root, KINETICS, *parts)


def tao(root: Path, train: int = 2, val: int = 1) -> Miniature:
    """{train,test}/<class>/<clip>/rgb/000000.png ... and a YAML page whose label_map is not in alphabetical order."""
    names, parts = ["walk", "fall_floor"], ({}, {})
    for name in names:
        for i in range(train + val):
            path = f"{'test' if i >= train else 'train'}/{name}/{name}_{i}/rgb"
            pictures(root / path, name, "{:06d}.png", first=0)
            parts[i >= train][path] = name
    write(root / "spec.yaml", "dataset:\n  label_map:\n    walk: 0\n    fall_floor: 1\n")
    return Miniature(root, names, *parts)


def _videos(root: Path, folder: str, names: Sequence[str], train: int, val: int) -> tuple[dict[str, str], ...]:
    parts: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for name in names:
        for i in range(train + val):
            path = f"{folder}/{name}/clip {i}.mp4"
            parts[i >= train][path] = name
            video(root / path, name)
    return parts


def _numbered(parts: Sequence[dict[str, str]], names: Sequence[str]) -> list[dict[str, str]]:
    return [{path: str(list(names).index(name)) for path, name in part.items()} for part in parts]


FRAMES, RATE, WIDTH, HEIGHT = 20, 12, 64, 48


def frames_of(path: Path, name: str) -> np.ndarray:
    """uint8 [20, 48, 64, 3]: noise in a colour that the class decides, all drawn from the names alone."""
    rng = np.random.default_rng([zlib.crc32(name.encode()), zlib.crc32(path.name.encode())])
    colour = np.random.default_rng(zlib.crc32(name.encode())).integers(60, 200, 3)
    noise = rng.normal(0, 20, (HEIGHT, WIDTH, 3))
    still = colour + noise
    return np.stack([np.clip(np.roll(still, 2 * i, axis=1), 0, 255).astype(np.uint8) for i in range(FRAMES)])


def video(path: Path, name: str) -> Path:
    """Encode 20 frames at 12 a second as the extension has it: Xvid's codec in avi, H.264 in mp4, VP9 in webm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        options = {"deadline": "realtime", "cpu-used": "8"} if path.suffix == ".webm" else {}
        stream = container.add_stream(CODECS[path.suffix], rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in frames_of(path, name):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def pictures(folder: Path, name: str, template: str, first: int) -> None:
    """Write 20 frames as numbered pictures."""
    from PIL import Image

    folder.mkdir(parents=True)
    for i, frame in enumerate(frames_of(folder.parent if folder.name == "rgb" else folder, name)):
        Image.fromarray(frame).save(folder / template.format(i + first))


def lines(path: Path, content: Sequence[str], end: str = "\n") -> None:
    """Write one entry a line."""
    write(path, "".join(line + end for line in content))


def table(path: Path, header: Sequence[str], rows: Sequence[Sequence]) -> None:
    """Write a CSV file with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def write(path: Path, text: str) -> None:
    """Write a text file and the folders above it, line ends as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
