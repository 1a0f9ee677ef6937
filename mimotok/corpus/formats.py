"""Shards as bytes: parquet, WebDataset tar and Lhotse Shar, each a pure function of records with its inverse."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mimotok.corpus.clips import cut_of
from mimotok.corpus.cuts import lhotse
from mimotok.io.manifest import gunzip
from mimotok.io.npz import read_npz

# metadata that most readers look for has parquet columns of its own
TEXT_COLUMNS = ("text", "speaker", "language")


@dataclass(frozen=True, eq=False, slots=True)
class Record:
    """The tokens of one clip.

    Attributes:
        key: as in `Item`.
        codes: uint16 [n_q, F].
        num_samples: samples of the clip.
        audio: as in `Item`.
        metadata: as in `Item`.
    """

    key: str
    codes: np.ndarray
    num_samples: int
    audio: dict[str, Any]
    metadata: dict[str, Any]


class Format(NamedTuple):
    """A format of shards.

    Attributes:
        files: files(stem, records, frame_rate) returns bytes by file name.
        records: records(bytes by file name) returns the records in order.
    """

    files: Callable[[str, Sequence[Record], float], dict[str, bytes]]
    records: Callable[[dict[str, bytes]], list[Record]]


def _parquet() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("parquet shards need: pip install 'mimotok[tokenize]'") from error
    return pyarrow


def _to_parquet(stem: str, records: Sequence[Record], frame_rate: float) -> dict[str, bytes]:
    pa = _parquet()
    rows = [_split_metadata(record.metadata) for record in records]
    columns = {
        "key": pa.array([record.key for record in records], pa.string()),
        "num_samples": pa.array([record.num_samples for record in records], pa.int64()),
        **{name: pa.array([texts[name] for texts, _ in rows], pa.string()) for name in TEXT_COLUMNS},
        "metadata": pa.array([_json(rest) for _, rest in rows], pa.string()),
        "audio": pa.array([_json(record.audio) for record in records], pa.string()),
        "codes": _codes_column([record.codes for record in records]),
    }
    table = pa.table(columns, metadata={"frame_rate": str(frame_rate)})
    sink = io.BytesIO()
    pa.parquet.write_table(table, sink, compression="zstd")
    return {f"tokens.{stem}.parquet": sink.getvalue()}


def _split_metadata(metadata: dict[str, Any]) -> tuple[dict[str, str | None], dict[str, Any]]:
    """Divide metadata into the values with columns of their own and the rest."""
    texts = {name: metadata[name] for name in TEXT_COLUMNS if isinstance(metadata.get(name), str)}
    rest = {name: value for name, value in metadata.items() if name not in texts}
    return {name: texts.get(name) for name in TEXT_COLUMNS}, rest


def _codes_column(codes: list[np.ndarray]) -> Any:
    """Build the column list<list<uint16>>, [n_q][F] of each clip."""
    pa = _parquet()
    frames = np.concatenate([[0], *(np.full(len(item), item.shape[1]) for item in codes)]).cumsum()
    books = np.concatenate([[0], [len(item) for item in codes]]).cumsum()
    values = pa.array(np.concatenate([item.ravel() for item in codes]), pa.uint16())
    inner = pa.ListArray.from_arrays(pa.array(frames, pa.int32()), values)
    return pa.ListArray.from_arrays(pa.array(books, pa.int32()), inner)


def _from_parquet(files: dict[str, bytes]) -> list[Record]:
    pa = _parquet()
    (data,) = files.values()
    column: Any = None
    try:
        table = pa.parquet.read_table(pa.BufferReader(data)).combine_chunks()
    except pa.ArrowException as error:
        raise ValueError(f"no readable parquet ({error})") from None
    if table.num_rows:
        column = table["codes"].chunk(0)
    columns = {name: table[name].to_pylist() for name in table.column_names if name != "codes"}
    records = []
    for i in range(table.num_rows):
        item = column[i].values
        codes = item.flatten().to_numpy().reshape(len(item), -1)
        texts = {name: columns[name][i] for name in TEXT_COLUMNS if columns[name][i] is not None}
        metadata = texts | json.loads(columns["metadata"][i])
        audio = json.loads(columns["audio"][i])
        records.append(Record(columns["key"][i], codes, columns["num_samples"][i], audio, metadata))
    return records


def _to_tar(stem: str, records: Sequence[Record], frame_rate: float) -> dict[str, bytes]:  # noqa: ARG001
    """Write samples `<stem>-<number>.npz` with the array `codes`, and `.json` with everything else."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for i, record in enumerate(records):
            name = f"{stem}-{i:06d}"
            array = io.BytesIO()
            np.savez(array, codes=record.codes)
            _add(tar, f"{name}.npz", array.getvalue())
            row = {"key": record.key, "num_samples": record.num_samples}
            _add(tar, f"{name}.json", _json(row | {"audio": record.audio, "metadata": record.metadata}).encode())
    return {f"tokens.{stem}.tar": sink.getvalue()}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _from_tar(files: dict[str, bytes]) -> list[Record]:
    (data,) = files.values()
    records = []
    for array, text in _pairs(data):
        codes = read_npz(io.BytesIO(array), ("codes",))["codes"]
        row = json.loads(text)
        records.append(Record(row["key"], codes, row["num_samples"], row["audio"], row["metadata"]))
    return records


def _pairs(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the contents of a tar's members, two by two."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        members = list(tar)
        if odd := [member.name for member in members if not member.isreg() or member.issparse()]:
            raise ValueError(f"{odd[0]} is not a regular file")
        contents = [tar.extractfile(member).read() for member in members]  # type: ignore[union-attr]
    yield from zip(contents[::2], contents[1::2], strict=True)


def _to_shar(stem: str, records: Sequence[Record], frame_rate: float) -> dict[str, bytes]:
    """Write `cuts.<stem>.jsonl.gz` and `codes.<stem>.tar`: `cut.load_codes()` is uint16 [n_q, F]."""
    lhotse()
    from lhotse.shar.writers.array import ArrayTarWriter
    from lhotse.shar.writers.cut import JsonlShardWriter

    with tempfile.TemporaryDirectory(prefix="mimotok-") as folder:
        cuts = Path(folder, f"cuts.{stem}.jsonl.gz")
        codes = Path(folder, f"codes.{stem}.tar")
        with JsonlShardWriter(str(cuts), shard_size=None) as rows, ArrayTarWriter(str(codes), shard_size=None) as tar:
            for record in records:
                cut = _cut_with_codes(record, frame_rate)
                tar.write(cut.id, record.codes, manifest=cut.codes)
                rows.write(cut)
        return {path.name: path.read_bytes() for path in (cuts, codes)}


def _cut_with_codes(record: Record, frame_rate: float) -> Any:
    """Return the clip's own cut, or a new one, with codes and what reads the record back."""
    from lhotse import MonoCut, SupervisionSegment
    from lhotse.array import Array
    from lhotse.shar.utils import to_shar_placeholder

    # a mixed cut has nowhere to put a field of its own
    if record.audio.get("cut", {}).get("type") in ("MonoCut", "MultiCut"):
        cut = cut_of(record.audio)
    else:
        seconds = record.codes.shape[1] / frame_rate
        texts = {name: record.metadata.get(name) for name in TEXT_COLUMNS}
        segment = SupervisionSegment(record.key, record.key, 0, seconds, **texts)
        cut = MonoCut(record.key, 0, seconds, 0, supervisions=[segment])
    # no TemporalArray: lhotse slices its first dimension, by rounded durations, which loses last frames
    codes = Array("shar", "", "", list(record.codes.shape))
    own = {"num_samples": record.num_samples, "audio": record.audio, "metadata": record.metadata}
    cut.custom = (cut.custom or {}) | {"codes": to_shar_placeholder(codes), "mimotok": own}
    return cut


def _from_shar(files: dict[str, bytes]) -> list[Record]:
    cuts, codes = (next(data for name, data in files.items() if name.startswith(kind)) for kind in ("cuts", "codes"))
    records = []
    for line, (array, _) in zip(gunzip(cuts).splitlines(), _pairs(codes), strict=True):
        cut = json.loads(line)
        own = cut["custom"]["mimotok"]
        # not numpy.load, which also takes archives and pickles
        data = np.lib.format.read_array(io.BytesIO(array), allow_pickle=False)
        records.append(Record(cut["id"], data, own["num_samples"], own["audio"], own["metadata"]))
    return records


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


FORMATS = {
    "parquet": Format(_to_parquet, _from_parquet),
    "webdataset": Format(_to_tar, _from_tar),
    "shar": Format(_to_shar, _from_shar),
}


def checked_format(name: str) -> Format:
    """Return the format called `name`. Raises ValueError for another name, ImportError where it lacks its library."""
    if name not in FORMATS:
        raise ValueError(f"format={name}: give one of {', '.join(FORMATS)}")
    {"parquet": _parquet, "shar": lhotse}.get(name, lambda: None)()
    return FORMATS[name]


def read_shard(folder: Path, names: Iterable[str], kind: str) -> list[Record]:
    """Read the records of the shard whose files these are. Raises ValueError, naming it, where it cannot be read."""
    names = list(names)
    try:
        return FORMATS[kind].records({name: (folder / name).read_bytes() for name in names})
    except Exception as error:  # damaged bytes break parquet, gzip, tar, numpy and JSON each in its own way
        raise ValueError(f"{folder / names[0]}: damaged shard ({' '.join(str(error).split())})") from error
