"""Files of arrays that only grow: shared by processes and runs, and unharmed by crashes."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from meshgpt.data.arrays import DTYPES, HEAD, MAGIC, ArrayFile, content_key
from meshgpt.errors import CheckpointError, DataError

KEYS = [content_key(f"thing {number}") for number in range(6)]


def rows(numbers):
    """Makes the array of each number, three at a time."""
    arrays = [np.arange(number * 4, dtype=np.float32).reshape(number, 4) for number in numbers]
    yield from (arrays[start : start + 3] for start in range(0, len(arrays), 3))


def never(numbers):
    raise AssertionError(f"{numbers} were made again")


def same(found, numbers=range(6)):
    return all(np.array_equal(array, next(rows([number]))[0]) for array, number in zip(found, numbers, strict=True))


def test_what_was_made_once_is_found_by_others(tmp_path):
    path = tmp_path / "deep" / "rows.arrays"
    assert ArrayFile(path).find(KEYS) == [None] * 6
    assert same(ArrayFile(path).fetch(KEYS, rows))
    assert same(ArrayFile(path).fetch(KEYS[::-1], never), range(5, -1, -1))
    assert same(ArrayFile(path).find(KEYS))
    assert [item.name for item in path.parent.iterdir() if not item.name.startswith(".")] == ["rows.arrays"]


def test_only_what_is_missing_is_made_and_keys_may_repeat(tmp_path):
    file, made = ArrayFile(tmp_path / "a"), []

    def noted(numbers):
        made.append(list(numbers))
        return rows(numbers)

    file.fetch(KEYS[:3], noted)
    found = file.fetch([KEYS[1], KEYS[4], KEYS[4], KEYS[2]], noted)
    assert made == [[0, 1, 2], [2]] and [len(array) for array in found] == [1, 2, 2, 2]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kind_of_number_comes_back_as_it_was(tmp_path, dtype):
    arrays = [np.arange(24).astype(dtype).reshape(2, 3, 4), np.zeros((0, 5), dtype), np.asarray(7, dtype=dtype)]
    found = ArrayFile(tmp_path / "a").fetch(KEYS[:3], lambda missing: [arrays])
    assert all(a.dtype == dtype and a.shape == b.shape and (a == b).all() for a, b in zip(found, arrays, strict=True))


def test_two_that_are_open_at_once_see_what_the_other_adds(tmp_path):
    first, second = ArrayFile(tmp_path / "a"), ArrayFile(tmp_path / "a")
    first.fetch(KEYS[:2], rows)
    second.fetch(KEYS[:4], rows)
    assert same(first.fetch(KEYS[:4], never), range(4))
    (tmp_path / "a").unlink()
    assert same(first.fetch(KEYS[:2], rows), range(2)), "a file that was removed is made again"


@pytest.mark.parametrize("cut", [1, 30, 70, 100])
def test_a_record_that_was_cut_off_is_made_again_and_no_other(tmp_path, cut):
    path = tmp_path / "a"
    ArrayFile(path).fetch(KEYS, rows)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert ArrayFile(path).find(KEYS)[-1] is None and same(ArrayFile(path).find(KEYS)[:5], range(5))
    assert same(ArrayFile(path).fetch(KEYS, lambda numbers: rows([5]) if numbers == [5] else never(numbers)))
    assert path.read_bytes() == whole


def test_a_file_cut_within_its_first_line_is_begun_again(tmp_path):
    path = tmp_path / "a"
    for content in (b"", b"meshgpt"):
        path.write_bytes(content)
        assert same(ArrayFile(path).fetch(KEYS, rows)) and same(ArrayFile(path).find(KEYS))


def test_a_damaged_array_counts_as_missing(tmp_path):
    path = tmp_path / "a"
    ArrayFile(path).fetch(KEYS, rows)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert ArrayFile(path).find(KEYS)[-1] is None
    assert same(ArrayFile(path).fetch(KEYS, lambda numbers: rows([5])))
    assert same(ArrayFile(path).find(KEYS))


def test_a_file_of_somebody_else_is_left_as_it_is(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"my thesis, the only copy")
    for action in (lambda file: file.find(KEYS), lambda file: file.fetch(KEYS, rows)):
        with pytest.raises(DataError, match="left as it is"):
            action(ArrayFile(path))
    assert path.read_bytes() == b"my thesis, the only copy"


def test_what_was_made_before_an_error_is_kept(tmp_path):
    def fails_late(numbers):
        yield next(rows(numbers))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ArrayFile(tmp_path / "a").fetch(KEYS, fails_late)
    assert [array is None for array in ArrayFile(tmp_path / "a").find(KEYS)] == [False] * 3 + [True] * 3


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot write .*rows"):
        ArrayFile(tmp_path / "file" / "rows").fetch(KEYS, rows)


def test_of_many_that_miss_something_one_makes_it(tmp_path):
    made, found = [], []

    def noted(numbers):
        made.extend(numbers)
        return rows(numbers)

    def ask():
        found.append(same(ArrayFile(tmp_path / "a").fetch(KEYS, noted)))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == list(range(6)) and found == [True] * 8


ADDER = """
import sys, numpy as np
from meshgpt.data.arrays import ArrayFile, content_key
file = ArrayFile(sys.argv[1])
for number in range(int(sys.argv[2]), 80, int(sys.argv[3])):
    file.fetch([content_key(str(number))], lambda missing: [[np.full(number, number)]])
"""


@pytest.mark.slow
def test_processes_add_to_one_file_at_once(tmp_path):
    path = str(tmp_path / "a")
    command = [sys.executable, "-W", "ignore", "-c", ADDER, path]
    adders = [subprocess.Popen([*command, *arguments]) for arguments in (("0", "1"), ("1", "2"))]
    assert [adder.wait() for adder in adders] == [0, 0]
    found = ArrayFile(path).find([content_key(str(number)) for number in range(80)])
    assert all(array.tolist() == [number] * number for number, array in enumerate(found))
    sizes = sum(HEAD.size + 8 * number for number in range(80))
    assert (tmp_path / "a").stat().st_size == len(MAGIC) + sizes, "one was made twice"


def test_keys_tell_parts_apart():
    assert content_key("ab", "c") != content_key("a", "bc") and content_key("a") == content_key(b"a")
