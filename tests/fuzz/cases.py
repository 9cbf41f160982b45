"""How many cases each property is tried on, and inputs that are nearly right."""

import os
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# Few cases, and the same ones each time, unless this says how many: `make fuzz`.
CASES = os.environ.get("TACIT_FUZZ_CASES")

fuzz = settings(
    max_examples=int(CASES or 100),
    derandomize=CASES is None,
    database=None,
    deadline=timedelta(seconds=10),  # far beyond any of them, and far below a hang
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# What files hold that readers stumble over.
JUNK = [
    *(b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", "\u2028\x85\xa0".encode()),
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\t", b" ", b"\x0c"),
    *(b'"', b"'", b"{", b"}", b"[", b"]", b",", b":", b"\\", b"#", b"&a ", b"*a", b"!!bool ", b"- ", b"? ", b"<<: "),
    *(b"||", b"|", b"####", b" #### ", b"<<", b">>"),
    *(b"NaN", b"-Infinity", b"1e999", b"-", b"0x", b"9" * 5000, b"0x" + b"f" * 5000, b"2001-99-99", b"null", b"true"),
    *(b'"\\ud800"', b'"\\ud83d\\ude00"', b"[" * 2000, b'{"a":' * 2000, b'"question": "again", ', b'"answer": null,'),
]


@st.composite
def mutated(draw: st.DrawFn, contents: st.SearchStrategy[bytes]) -> bytes:
    """Flip, cut, insert and duplicate here and there in a content that is right."""
    content = draw(contents)
    for _ in range(draw(st.integers(1, 3))):
        places = st.integers(0, len(content))
        begin, end = sorted((draw(places), draw(places)))
        piece = content[begin:end]
        kind = draw(st.sampled_from(["flip", "cut", "insert", "duplicate"]))
        if kind == "flip" and piece:
            piece = bytes([piece[0] ^ draw(st.integers(1, 255))]) + piece[1:]
        elif kind == "cut":
            piece = b""
        elif kind == "insert":
            piece = draw(st.sampled_from(JUNK) | st.binary(max_size=4)) + piece
        elif kind == "duplicate":
            piece += piece
        content = content[:begin] + piece + content[end:]
    return content


@st.composite
def reencoded(draw: st.DrawFn, contents: st.SearchStrategy[bytes]) -> bytes:
    """Write a content as another program might have."""
    encodings = ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "utf-7"]
    text = draw(contents).decode()
    if draw(st.booleans()):
        text = text.replace("\n", "\r\n")
    return text.encode(draw(st.sampled_from(encodings)), errors="replace")


def damaged(contents: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Return contents, some as they are, most of them broken in one way or another."""
    return contents | mutated(contents) | reencoded(contents) | st.binary(max_size=200)
