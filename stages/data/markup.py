"""XML of other people: parsed without document types, so that no entity can grow and no other file is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

LARGEST = 16 << 20  # bytes of a file that is read whole


def parser() -> expat.XMLParserType:
    """A parser to hang handlers on, whose `ParseFile` raises ValueError on a document type."""
    made = expat.ParserCreate()
    made.StartDoctypeDeclHandler = _refuse
    return made


def _refuse(*_: Any) -> None:
    raise ValueError("it declares a document type, which no tool of annotations writes and which may hold anything")


def read(path: Path) -> Element:
    """The root of a small document. Raises OSError, and ValueError in words on what is no XML or declares a document type."""
    if path.stat().st_size > LARGEST:
        raise ValueError(f"it holds {path.stat().st_size >> 20} MB")
    builder, reader = TreeBuilder(), parser()
    reader.StartElementHandler = builder.start
    reader.EndElementHandler = builder.end
    reader.CharacterDataHandler = builder.data
    try:
        with path.open("rb") as file:
            reader.ParseFile(file)
        return builder.close()
    except expat.ExpatError as error:
        raise ValueError(f"not XML: {error}") from error
