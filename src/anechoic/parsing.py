"""JSON, CSV and Parquet that come from outside, parsed within limits.

What is over a limit, damaged or of another shape is refused in one sentence. A variable of the
environment raises a limit:

    ANECHOIC_MAX_FILE_BYTES    1 GiB   of a file that is read as a whole, or a file in a tar
    ANECHOIC_MAX_ROWS      10000000    of a table
    ANECHOIC_MAX_FIELD      1048576    characters of a cell of CSV, of a line of JSON lines, or of a
                                       certificate
    ANECHOIC_MAX_DEPTH           64    levels of brackets in JSON
    ANECHOIC_MAX_DIGITS         300    of a whole number in JSON, the most that a float holds
    ANECHOIC_MAX_NAMES       100000    that the braces of a pattern stand for
    ANECHOIC_MAX_NAME          4096    characters of the name of a source
    ANECHOIC_MAX_SAMPLES       2^30    of a sound file, in all channels: 4 GiB in memory
"""

from __future__ import annotations

import builtins
import csv
import json
import math
import os
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from anechoic.errors import AnechoicError, BadSetting

LIMITS = {
    "FILE_BYTES": 1 << 30,
    "ROWS": 10_000_000,
    "FIELD": 1 << 20,
    "DEPTH": 64,
    "DIGITS": 300,
    "NAMES": 100_000,
    "NAME": 4096,
    "SAMPLES": 2**30,
}
TABLES = (".csv", ".jsonl", ".ndjson", ".parquet")
FIX = "correct it"
T = TypeVar("T")
Row = Mapping[str, Any]
Refuse = Callable[[str], AnechoicError]  # the class of an error


def require_limit(name: str, value: int, what: str, error: Refuse) -> None:
    """Refuse a `value` over the limit of this name.

    Raises:
        AnechoicError: of the class `error`: it is over the limit.
        BadSetting: the variable of the environment is not a number.
    """
    variable = f"ANECHOIC_MAX_{name}"
    text = os.environ.get(variable, str(LIMITS[name]))
    if not text.isdecimal() or len(text) > 18:
        raise BadSetting(f"{variable} is {text!r}; expected a whole number")
    if value > int(text):
        raise error(f"{what}, over the limit of {text}; correct it, or raise {variable}")


def parse_json(text: str | bytes, what: str, error: Refuse, fix: str = FIX) -> Any:
    """The value of a JSON text; `what` names it in sentences.

    Raises:
        AnechoicError: of the class `error`: not JSON in UTF-8, a key twice in an object, or
            nested too deep or numbers too long.
    """

    def integer(digits: str) -> int:
        if (count := len(digits.lstrip("-"))) > 18:
            require_limit("DIGITS", count, f"{what} has a number of {count} digits", error)
        return int(digits)

    def to_object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        if len(made := dict(pairs)) < len(pairs):
            twice = [name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i])]
            raise error(f"{what} has {twice[0]!r} twice in one object; {fix}")
        return made

    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(text, parse_int=integer, object_pairs_hook=to_object)
    except UnicodeDecodeError as bad:
        raise error(f"{what} is not UTF-8 (byte 0x{bad.object[bad.start]:02x}); {fix}") from bad
    except RecursionError:
        value, depth = None, 1000  # the interpreter's own limit
    except ValueError as bad:
        raise error(f"{what} is not JSON ({getattr(bad, 'msg', bad)}); {fix}") from bad
    else:
        depth = _depth(value) if text.count("[") + text.count("{") > 16 else 16
    require_limit("DEPTH", depth, f"{what} is JSON nested {depth} levels deep", error)
    if "\\u" in text:
        try:  # what stands for a byte of a file name is kept
            json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as bad:
            raise error(f"{what} has half of a surrogate pair, not text; {fix}") from bad
    return value


def parse_object(text: str | bytes, what: str, error: Refuse, fix: str = FIX) -> dict[str, Any]:
    """The object of a JSON text, as `parse_json`."""
    value = parse_json(text, what, error, fix)
    if not isinstance(value, dict):
        raise error(f"{what} is not a JSON object; {fix}")
    return value


def parse_record(kind: type[T], value: Any, what: str, error: Refuse, fix: str = FIX) -> T:
    """A dataclass of the value of a JSON text, whose fields have the types that it declares.

    Raises:
        AnechoicError: of the class `error`: a field is missing, unknown or of another type.
    """
    try:
        return cast(T, _typed(kind, value, kind.__name__))
    except TypeError as bad:
        raise error(f"{what} has another content than it should ({bad}); {fix}") from bad


_types_of = cache(get_type_hints)  # which compiles each annotation, every time


def _typed(kind: Any, value: Any, name: str) -> Any:
    inner = get_args(kind)
    match get_origin(kind) or kind:
        case typing.Any:
            return value
        case typing.Union | types.UnionType:
            if value is None and types.NoneType in inner:
                return None
            return _typed(next(one for one in inner if one is not types.NoneType), value, name)
        case typing.Literal if value in inner:
            return value
        case origin if origin in (tuple, list) and isinstance(value, list):
            plain = inner[0] in (str, int, float) and {*map(type, value)} <= {inner[0]}
            if plain and (inner[0] is not float or all(map(math.isfinite, value))):
                return origin(value)  # at once, as there may be thousands
            return origin(_typed(inner[0], one, f"{name}[{i}]") for i, one in enumerate(value))
        case origin if origin in (dict, Mapping) and isinstance(value, dict):
            return {key: _typed(inner[1], one, f"{name}.{key}") for key, one in value.items()}
        case origin if is_dataclass(origin) and isinstance(value, dict):
            hints = _types_of(kind)
            return kind(
                **{n: _typed(hints.get(n, Any), v, f"{name}.{n}") for n, v in value.items()}
            )
        case builtins.float if type(value) in (int, float) and math.isfinite(value):
            return float(value)
        case origin if type(value) is origin and origin is not float:
            return value
    raise TypeError(f"{name} is {str(value)[:40]!r}, expected {getattr(kind, '__name__', kind)}")


def read_file(path: str | Path, what: str, error: Refuse) -> bytes:
    """The content of a file that is read as a whole.

    Raises:
        AnechoicError: of the class `error`: no such file, too large, or not to be read.
    """
    try:
        if not Path(path).is_file():
            raise error(f"the {what} '{path}' does not exist; check the path")
        _require_size(path, what, error)
        return Path(path).read_bytes()
    except (OSError, ValueError) as bad:  # a NUL in the name
        raise error(f"{what} '{path}' cannot be read ({bad})") from bad


def read_rows(path: str | Path, what: str, error: Refuse) -> Iterator[Row]:
    """The rows of a table, with their cells by column.

    Args:
        path: CSV (with a header), JSON lines or Parquet, by its suffix; UTF-8.
        what: what sentences call it, as "captions".
        error: the class of what is raised.

    Raises:
        AnechoicError: of the class `error`: no such file, another format or encoding, damaged, or
            over a limit.
    """
    path = Path(path)
    readers = {".csv": _csv, ".parquet": _parquet}
    if (suffix := path.suffix.lower()) not in TABLES:
        raise error(f"expected {what} in a .csv, .jsonl or .parquet file, got '{path}'")
    if not path.is_file():
        raise error(f"the file of {what} '{path}' does not exist; check the path")
    try:
        if suffix != ".parquet":
            _require_size(path, what, error)
        for number, row in enumerate(readers.get(suffix, _json_lines)(path, what, error), 1):
            require_limit("ROWS", number, f"{what} '{path}' have {number} rows", error)
            yield row
    except UnicodeDecodeError as bad:
        byte = bad.object[bad.start]
        raise error(
            f"{what} '{path}' are not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8"
        ) from bad
    except OSError as bad:
        raise error(f"{what} '{path}' cannot be read ({bad.strerror or bad})") from bad


def _csv(path: Path, what: str, error: Refuse) -> Iterator[Row]:
    csv.field_size_limit(min(_field_limit(), 2**31 - 1))
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        header: list[str] = []
        while True:
            first = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as bad:
                raise error(
                    f"{what} '{path}': the row that begins in line {first} cannot be read ({bad}); "
                    "close its quotes, double those inside of it, or raise ANECHOIC_MAX_FIELD"
                ) from bad
            if cells is None:
                return
            if not cells:
                continue
            if not header:
                header = cells
                _require_distinct(header, path, what, error)
            elif len(cells) != len(header):
                raise error(
                    f"{what} '{path}', line {reader.line_num}: expected {len(header)} columns, but "
                    f"there are {len(cells)}; put quotes around text with commas"
                )
            else:
                yield dict(zip(header, cells, strict=True))


def _json_lines(path: Path, what: str, error: Refuse) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{what} '{path}', line {number}"
            require_limit("FIELD", len(line), f"{where} has {len(line)} characters", error)
            if line.strip():
                yield parse_object(line, where, error)


def _parquet(path: Path, what: str, error: Refuse) -> Iterator[Row]:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            rows = file.metadata.num_rows
            require_limit("ROWS", rows, f"{what} '{path}' have {rows} rows", error)
            _require_distinct(file.schema_arrow.names, path, what, error)
            for batch in file.iter_batches(1024):
                yield from batch.to_pylist()
    except UNREADABLE as bad:
        reason = (str(bad) or type(bad).__name__).splitlines()[0].rstrip(".")
        raise error(
            f"{what} '{path}' are not a Parquet file, or damaged ({reason}); write it again"
        ) from bad


# what pyarrow raises for damaged Parquet: its own errors are ValueErrors, KeyErrors and so on
UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
)


def _field_limit() -> int:
    require_limit("FIELD", 0, "", BadSetting)
    return int(os.environ.get("ANECHOIC_MAX_FIELD", LIMITS["FIELD"]))


def _require_size(path: str | Path, what: str, error: Refuse) -> None:
    size = os.path.getsize(path)
    require_limit("FILE_BYTES", size, f"{what} '{path}': the file has {size} bytes", error)


def _require_distinct(names: Sequence[str], path: Path, what: str, error: Refuse) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            raise error(f"{what} '{path}' have the column {name!r} twice; leave one out")


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, (list, dict))]:
        depth += 1
        level = [v for each in level for v in (each.values() if isinstance(each, dict) else each)]
    return depth


# ------------------------------------------------------------------------------------ cells


def text_of(value: Any) -> str:
    """A cell as the text that a caption or `info` holds; "" for none, and for NaN.

    >>> text_of(["a", 1])
    '["a", 1]'
    """
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(value, ensure_ascii=False, default=str) if value else ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace").strip()
    return "" if value is None or value != value else str(value).strip()


def caption_of(value: Any) -> str:
    """The caption in a cell; of several captions the first that says anything."""
    several = value if isinstance(value, (list, tuple)) else [value]
    return next((text for one in several if (text := text_of(one))), "")


def number_of(value: Any, what: str, error: Refuse) -> float:
    """A cell as a number of seconds; 0.0 for none, and for NaN.

    Raises:
        AnechoicError: of the class `error`: not a number, negative or infinite.
    """
    try:
        number = float(text_of(value) or 0)
    except (ValueError, OverflowError):
        number = -1.0
    if not 0 <= number < 1e9 and number == number:
        raise error(f"{what} is {text_of(value)[:40]!r}; expected a number of seconds, from 0 on")
    return number if number == number else 0.0


def readable(name: str) -> str:
    """A file name as text; bytes that are not UTF-8 are escaped.

    >>> readable("caf\\udce9.wav")
    'caf\\\\xe9.wav'
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace")
