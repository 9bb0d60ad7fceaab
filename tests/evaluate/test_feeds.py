import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttune.config.errors import DataError, UserCodeError
from disttune.evaluate.data import Feeds, load_feeds
from disttune.quantize.summary import InputSpec
from tests.evaluate.small_models import X, rows, write

MASK = InputSpec("mask", "int64", ("N", 4))


def load(source, specs=(X,), samples=128, folder=None, **more):
    return load_feeds(source, folder, specs, samples, **more)


def fails(source, specs=(X,), samples=128, folder=None, **more):
    with pytest.raises(DataError) as caught:
        load(source, specs, samples, folder, **more)
    return str(caught.value)


def yields(*items):
    def calibration():
        yield from items

    return calibration


def sizes(feeds):
    return [len(feed["x"]) for feed in feeds.feeds]


def test_feeds_of_a_loader_in_a_file_are_read_in_its_order(tmp_path):
    write(
        tmp_path / "eval.py",
        "import numpy as np\ndef calibration():\n"
        "  for i in range(9): yield {'x': np.full((2, 4), i, 'float32')}",
    )
    feeds = load("eval.py:calibration", samples=6, folder=tmp_path)
    assert [feed["x"][0, 0] for feed in feeds.feeds] == [0, 1, 2]
    assert (feeds.n_samples, feeds.batched, feeds.targets) == (6, True, None)


@pytest.mark.parametrize("source", [[{"x": rows(2)}], yields({"x": rows(2)}), iter([{"x": rows(2)}])])
def test_lists_functions_and_iterators_give_the_same_feeds(source):
    assert load(source, samples=2).digest == load([{"x": rows(2)}], samples=2).digest


def test_a_reader_with_get_next_is_drained_until_none():
    class Reader:
        def __init__(self):
            self.left = [{"x": rows(2)}, {"x": rows(3)}]

        def get_next(self):
            return self.left.pop(0) if self.left else None

    assert sizes(load(Reader(), samples=9)) == [2, 3]
    assert sizes(load(Reader, samples=9)) == [2, 3]


def test_the_last_feed_is_cut_and_no_more_are_read():
    def endless():
        while True:
            count.append(1)
            yield {"x": rows(4)}, np.arange(4)

    count = []
    feeds = load(endless, samples=10)
    assert sizes(feeds) == [4, 4, 2]
    assert [list(t) for t in feeds.targets] == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1]]
    assert (feeds.n_samples, len(count), feeds.warnings) == (10, 3, ())


def test_a_loader_is_closed_when_enough_was_read():
    def calibration():
        try:
            while True:
                yield {"x": rows(4)}
        finally:
            ended.append(True)

    ended = []
    load(calibration, samples=4)
    assert ended == [True]


def test_a_loader_may_yield_one_buffer_again_and_again():
    def calibration():
        buffer = np.zeros((1, 4), np.float32)
        for i in range(3):
            buffer[:] = i
            yield {"x": buffer}

    assert [f["x"][0, 0] for f in load(calibration).feeds] == [0, 1, 2]


def test_fewer_samples_than_asked_for_are_a_warning():
    feeds = load([{"x": rows(5)}], samples=8, where="calibration")
    assert feeds.warnings == ("calibration reader list: 5 samples, 8 were asked for",)


def test_a_model_with_a_fixed_batch_gets_whole_feeds():
    spec = InputSpec("x", "float32", (4, 4))
    feeds = load([{"x": rows(4)}] * 3, [spec], samples=6)
    assert (sizes(feeds), feeds.n_samples, feeds.cuttable) == ([4, 4], 8, False)
    assert "8 samples instead of 6" in feeds.warnings[0]


def test_rows_are_samples_when_all_feeds_agree_in_them():
    other = InputSpec("z", "float32", ("M", 4))
    feeds = load([{"x": rows(3), "z": rows(3)}] * 2, [X, other], samples=5)
    assert (sizes(feeds), feeds.batched) == ([3, 2], True)


def test_a_feed_is_one_sample_where_there_is_no_batch_axis():
    table = InputSpec("table", "float32", ("M", 4))
    feeds = load([{"x": rows(3), "table": rows(7)}] * 9, [X, table], samples=2)
    assert (sizes(feeds), feeds.n_samples, feeds.batched) == ([3, 3], 2, False)


def test_a_scalar_input_means_that_there_is_no_batch_axis():
    temperature = InputSpec("t", "float32", ())
    feeds = load([{"x": rows(3), "t": np.float32(1)}] * 9, [X, temperature], samples=2)
    assert (feeds.n_samples, feeds.batched) == (2, False)


def test_feeds_that_disagree_later_are_counted_as_feeds_from_the_first():
    other = InputSpec("z", "float32", ("M", 4))
    agree, differ = {"x": rows(3), "z": rows(3)}, {"x": rows(3), "z": rows(1)}
    feeds = load([agree, differ, agree, agree, agree], [X, other], samples=4)
    assert (sizes(feeds), feeds.n_samples, feeds.batched) == ([3, 3, 3, 3], 4, False)


def test_lossless_casts_are_made_with_a_warning():
    feed = {"x": rows(2).astype(np.float64), "mask": np.ones((2, 4), np.int32)}
    feeds = load([feed, feed], [X, MASK], samples=4)
    assert [a.dtype.name for a in feeds.feeds[0].values()] == ["float32", "int64"]
    assert feeds.warnings == (
        'input "x": float64 is converted to the float32 of the model',
        'input "mask": int32 is converted to the int64 of the model',
    )


def test_lists_of_numbers_and_other_byte_orders_are_taken():
    for value in ([[1.0, 2.0, 3.0, 4.0]], np.array([[1, 2, 3, 4]], ">f4")):
        array = load([{"x": value}], samples=1).feeds[0]["x"]
        assert array.dtype == np.float32
        assert array.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (None, "feed 0: found None, expected a dict"),
        (rows(2), 'feed 0: found type ndarray, expected a dict {input name: array} with "x" float32 (N, 4)'),
        ({"xx": rows(2)}, 'feed 0: the model has no input "xx". Nearest: "x". All: x.'),
        ({}, 'feed 0: input "x" is missing; expected "x" float32 (N, 4)'),
        (
            {"x": np.ones((2, 4), np.float16)},
            'input "x": found type float16, expected float32; convert with .astype(',
        ),
        ({"x": np.ones((2, 4), np.int64)}, "found type int64, expected float32"),
        ({"x": np.full((2, 4), 1e300)}, "found numbers too large for float32; scale the data"),
        ({"x": rows(2)[0]}, "found shape (4), expected (N, 4): 1 dimensions, not 2"),
        (
            {"x": rows(2)[:, :3]},
            "found shape (2, 3), expected (N, 4): dimension 1 is 3, the model fixes it to 4",
        ),
        ({"x": rows(0)}, "it has no rows"),
        ({"x": np.array([[None] * 4])}, "found an array of Python objects (type ndarray)"),
        ({"x": [[1.0], [1.0, 2.0]]}, 'input "x": type list cannot be made an array'),
        (
            ({"x": rows(2)}, np.ones(3)),
            "feed 0, targets: found shape (3,), expected 2 rows as the inputs have",
        ),
        (({"x": rows(2)}, [object()] * 2), "feed 0, targets: found an array of Python objects"),
        (({"x": rows(2)}, np.array([0, np.nan])), "feed 0, targets: NaN in row 1"),
    ],
)
def test_a_feed_that_does_not_fit_is_told_with_its_place(item, expected):
    message = fails(yields(item))
    assert message.startswith("calibration loader calibration, feed 0")
    assert expected in message


def test_integers_are_not_narrowed():
    assert "found type int64, expected int32" in fails(
        [{"ids": np.ones((1, 8), np.int64)}], [InputSpec("ids", "int32", ("N", 8))]
    )


def test_a_nan_is_told_with_feed_tensor_and_sample():
    bad = rows(3)
    bad[1, 2] = np.nan
    assert fails([{"x": rows(3)}, {"x": bad}]) == (
        'calibration reader list, feed 1, input "x": NaN in row 1 (sample 4, counted from 0); '
        "expected finite numbers, clean the data"
    )


def test_infinities_are_taken_as_masks_have_them():
    assert load([{"x": np.full((1, 4), -np.inf, np.float32)}], samples=1).n_samples == 1


def test_inputs_of_one_symbol_must_have_the_same_rows():
    message = fails([{"x": rows(2), "mask": np.ones((3, 4), np.int64)}], [X, MASK])
    assert 'feed 0: the first dimension "N" must be the same for all inputs; found "x" 2, "mask" 3' in message


def test_targets_are_given_for_all_feeds_or_none():
    for items in ([({"x": rows(1)}, [1]), {"x": rows(1)}], [{"x": rows(1)}, ({"x": rows(1)}, [1])]):
        assert "feed 1: some feeds come with targets and some without" in fails(items)


def test_a_loader_that_gives_nothing_is_an_error():
    assert fails(yields()) == "calibration loader calibration: it gave no feed; at least one is needed"
    assert "it returned None; it must yield feeds" in fails(lambda: None)
    assert "found type int, expected feeds to iterate over" in fails(lambda: 3)
    assert "found type dict, expected feeds to iterate over; yield each feed" in fails(lambda: {"x": rows(1)})


def test_a_loader_that_raises_is_told_with_its_line(tmp_path):
    write(
        tmp_path / "eval.py",
        "import numpy as np\n"
        "def later():\n  yield {'x': np.ones((1, 4), 'float32')}\n  raise OSError('disk')\n"
        "def at_once():\n  raise KeyError('a')\ndef needs(n): pass",
    )
    assert fails("eval.py:later", folder=tmp_path) == (
        'calibration.loader = "eval.py:later": it raised OSError: disk (eval.py, line 4) '
        "instead of giving feed 1"
    )
    assert "it raised KeyError: 'a' (eval.py, line 6)" in fails("eval.py:at_once", folder=tmp_path)
    with pytest.raises(
        UserCodeError, match=r'calibration.loader = "eval.py:needs" must be callable with no argument'
    ):
        load("eval.py:needs", folder=tmp_path)


def test_an_npz_is_cut_into_feeds_of_sixteen(tmp_path):
    np.savez(tmp_path / "calib.npz", x=rows(50), labels=np.arange(50))
    feeds = load("calib.npz", samples=40, folder=tmp_path)
    assert sizes(feeds) == [16, 16, 8]
    assert np.array_equal(np.concatenate([f["x"] for f in feeds.feeds]), rows(50)[:40])
    assert np.array_equal(np.concatenate(feeds.targets), np.arange(40))
    assert feeds.feeds[0]["x"].base is None


def test_an_npz_is_cut_into_the_batches_that_a_model_fixes(tmp_path):
    np.savez(tmp_path / "calib.npz", x=rows(6))
    spec = InputSpec("x", "float32", (2, 4))
    assert sizes(load(tmp_path / "calib.npz", [spec], samples=4, folder=tmp_path)) == [2, 2]
    np.savez(tmp_path / "odd.npz", x=rows(7))
    assert "found 7 rows, but the model takes exactly 2 at a time: remove the last 1" in fails(
        "odd.npz", [spec], folder=tmp_path
    )


def test_an_npy_holds_the_only_input(tmp_path):
    np.save(tmp_path / "x.npy", rows(3))
    assert sizes(load("x.npy", samples=3, folder=tmp_path)) == [3]
    assert 'calibration.data = "x.npy": a .npy holds one input, the model has 2' in fails(
        "x.npy", [X, MASK], folder=tmp_path
    )


def test_an_npz_whose_inputs_differ_in_rows_is_one_feed(tmp_path):
    np.savez(tmp_path / "calib.npz", x=rows(3), table=rows(20))
    feeds = load("calib.npz", [X, InputSpec("table", "float32", ("M", 4))], samples=1, folder=tmp_path)
    assert (sizes(feeds), feeds.n_samples) == ([3], 1)


def test_a_file_that_cannot_be_used_is_told(tmp_path):
    write(tmp_path / "text.npz", "not a zip")
    write(tmp_path / "empty.npz", "")
    np.savez(tmp_path / "pickled.npz", x=np.array([[None] * 4]))
    (tmp_path / "torn.npz").write_bytes((tmp_path / "pickled.npz").read_bytes()[:40])
    with zipfile.ZipFile(tmp_path / "hollow.npz", "w"):
        pass
    message = fails("calb.npz", folder=tmp_path)
    assert message.startswith(f'calibration.data = "calb.npz": {tmp_path} has no file "calb.npz".')
    for name in ("text.npz", "empty.npz"):
        assert "the file is no .npz or .npy; write it with numpy.savez" in fails(name, folder=tmp_path)
    assert "holds pickled Python objects, which are not loaded" in fails("pickled.npz", folder=tmp_path)
    assert "the file cannot be read" in fails("torn.npz", folder=tmp_path)
    assert 'input "x" is missing' in fails("hollow.npz", folder=tmp_path)


def test_an_array_of_another_name_is_told_with_the_nearest(tmp_path):
    np.savez(tmp_path / "calib.npz", x=rows(3), lables=np.arange(3))
    message = fails("calib.npz", folder=tmp_path, output_names=["out"])
    assert 'no input, output or target "lables". Nearest: "labels"' in message


def test_two_possible_targets_are_an_error(tmp_path):
    np.savez(tmp_path / "calib.npz", x=rows(3), labels=np.arange(3), out=rows(3))
    assert "several arrays could be the target: labels, out; keep one" in fails(
        "calib.npz", folder=tmp_path, output_names=["out"]
    )


def test_an_input_named_like_a_target_is_an_input(tmp_path):
    np.savez(tmp_path / "calib.npz", y=rows(3))
    feeds = load("calib.npz", [InputSpec("y", "float32", ("N", 4))], samples=3, folder=tmp_path)
    assert (list(feeds.feeds[0]), feeds.targets) == (["y"], None)


def test_a_nan_in_a_file_is_told_with_its_sample(tmp_path):
    bad = rows(30)
    bad[20, 0] = np.nan
    np.savez(tmp_path / "calib.npz", x=bad)
    assert 'calibration.data = "calib.npz", input "x": NaN in row 20 (sample 20' in fails(
        "calib.npz", folder=tmp_path
    )


FEED_LISTS = st.lists(st.integers(1, 7), min_size=1, max_size=6)


@given(FEED_LISTS, st.integers(1, 40), st.booleans(), st.booleans())
def test_feeds_travel_as_plain_arrays(lengths, samples, with_targets, agree):
    other = InputSpec("a/z", "int64", ("M", 2))
    z = [n if agree else 1 for n in lengths]
    items = [{"x": rows(n), "a/z": np.full((k, 2), n)} for n, k in zip(lengths, z, strict=True)]
    pairs = [(item, np.arange(len(item["x"]))) for item in items]
    feeds = load(pairs if with_targets else items, [X, other], samples)
    arrays = feeds.to_arrays()
    assert all(isinstance(a, np.ndarray) and not a.dtype.hasobject for a in arrays.values())
    back = Feeds.from_arrays(dict(reversed(arrays.items())))
    assert back.digest == feeds.digest
    assert (back.n_samples, back.batched, back.cuttable) == (feeds.n_samples, feeds.batched, feeds.cuttable)
    assert back.warnings == feeds.warnings


@given(FEED_LISTS, st.integers(1, 40), st.integers(1, 40))
def test_the_head_is_what_reading_fewer_samples_gives(lengths, more, fewer):
    items = [({"x": rows(n, seed=i)}, np.full(n, i)) for i, n in enumerate(lengths)]
    fewer = min(fewer, more)
    head, read = load(items, samples=more).head(fewer), load(items, samples=fewer)
    assert head.digest == read.digest
    assert head.n_samples == read.n_samples == min(fewer, sum(lengths))


def test_digest_counts_names_types_shapes_bytes_and_targets():
    def digest(name="x", array=None, target=None):
        array = rows(2) if array is None else array
        spec = InputSpec(name, array.dtype.name, (None,) * array.ndim)
        return load([({name: array}, target)], [spec], samples=9).digest

    changed = rows(2)
    changed[0, 0] += 1
    variants = [
        digest(), digest("z"), digest(array=changed), digest(array=rows(2).reshape(4, 2)),
        digest(array=rows(2).view(np.int32)), digest(target=[0, 1]), digest(target=[0, 2]),
    ]  # fmt: skip
    assert len(set(variants)) == len(variants)
    assert digest() == digest()
