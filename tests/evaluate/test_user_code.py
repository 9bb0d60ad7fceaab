import functools
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disttune.config.errors import UserCodeError
from disttune.evaluate.user_code import (
    check_callable,
    code_digest,
    describe_exception,
    failed_line,
    files_digest,
    load_function,
)
from tests.evaluate.small_models import write


@pytest.fixture(autouse=True)
def _unchanged_imports(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


def fails(reference, folder, **more):
    with pytest.raises(UserCodeError) as caught:
        load_function(reference, folder, **more)
    return str(caught.value)


def test_a_function_is_loaded_from_a_file_below_the_folder(tmp_path):
    write(tmp_path / "code" / "eval.py", "def evaluate(model): return model + 1")
    assert load_function("code/eval.py:evaluate", tmp_path)(1) == 2
    assert load_function(f"{tmp_path}/code/eval.py:evaluate", tmp_path)(2) == 3


def test_siblings_are_found_at_import_and_when_called(tmp_path):
    write(tmp_path / "sibling_now.py", "BASE = 1")
    write(tmp_path / "sibling_later.py", "MORE = 10")
    write(
        tmp_path / "eval.py",
        "import sibling_now\ndef evaluate(model):\n"
        "    import sibling_later\n    return sibling_now.BASE + sibling_later.MORE",
    )
    assert load_function("eval.py:evaluate", tmp_path)(None) == 11


def test_file_and_name_are_those_of_the_users_file(tmp_path):
    write(tmp_path / "eval.py", "import os\ndef evaluate(model): return os.path.dirname(__file__)")
    assert load_function("eval.py:evaluate", tmp_path)(None) == str(tmp_path)


def test_two_references_to_one_file_share_its_state(tmp_path):
    write(
        tmp_path / "eval.py",
        "seen = []\ndef calibration(): return seen\ndef evaluate(model): seen.append(model)",
    )
    load_function("eval.py:evaluate", tmp_path)("m")
    assert load_function("eval.py:calibration", tmp_path, n_arguments=0)() == ["m"]


def test_an_edited_file_is_loaded_anew_at_once(tmp_path):
    write(tmp_path / "eval.py", "def evaluate(model): return 1")
    assert load_function("eval.py:evaluate", tmp_path)(None) == 1
    write(tmp_path / "eval.py", "def evaluate(model): return 2")
    assert load_function("eval.py:evaluate", tmp_path)(None) == 2


def test_files_of_one_name_in_two_folders_stay_apart(tmp_path):
    for folder, value in (("a", 1), ("b", 2)):
        write(tmp_path / folder / "eval.py", f"def evaluate(model): return {value}")
    assert [load_function(f"{f}/eval.py:evaluate", tmp_path)(None) for f in "ab"] == [1, 2]


def test_a_reference_of_another_form_is_refused(tmp_path):
    for reference in ("eval.py", "eval:evaluate", "eval.py:", "eval.py:a b"):
        assert 'expected "file.py:function"' in fails(reference, tmp_path)


def test_a_missing_file_is_told_with_the_nearest(tmp_path):
    write(tmp_path / "eval.py", "")
    assert fails("evl.py:evaluate", tmp_path) == (
        f'evaluation.function = "evl.py:evaluate": {tmp_path} has no file "evl.py". '
        'Nearest: "eval.py". All: eval.py.'
    )


def test_a_missing_function_is_told_with_the_files_own_functions(tmp_path):
    write(
        tmp_path / "eval.py", "from os.path import join\ndef evaluate(model): pass\ndef calibration(): pass"
    )
    assert fails("eval.py:evalute", tmp_path) == (
        'evaluation.function = "eval.py:evalute": the file has no function "evalute". '
        'Nearest: "evaluate". All: calibration, evaluate.'
    )


def test_the_key_that_holds_the_reference_is_named(tmp_path):
    assert fails("eval.py:f", tmp_path, where="calibration.loader").startswith("calibration.loader = ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = (1\n", "SyntaxError: '(' was never closed (eval.py, line 1)"),
        ("import os\nraise ValueError('bad\\n data')", "ValueError: bad data (eval.py, line 2)"),
        (
            "import no_such_module_x",
            "No module named 'no_such_module_x' (eval.py, line 1); install no_such_module_x",
        ),
        ("import sys\nsys.exit('usage')", "SystemExit: usage (eval.py, line 2)"),
        ("import json\njson.loads('{')", "(eval.py, line 2)"),
        ("import broken_part", "ZeroDivisionError: division by zero (broken_part.py, line 2)"),
    ],
)
def test_a_failing_import_names_file_and_line(tmp_path, text, expected):
    write(tmp_path / "eval.py", text)
    write(tmp_path / "broken_part.py", "\n1 / 0")
    message = fails("eval.py:evaluate", tmp_path)
    assert message.startswith('evaluation.function = "eval.py:evaluate": import failed: ')
    assert expected in message
    assert not [m for m in sys.modules.values() if getattr(m, "__file__", None) == str(tmp_path / "eval.py")]


def test_a_failed_import_is_tried_again_after_a_mend(tmp_path):
    write(
        tmp_path / "eval.py",
        "import os\nif not os.path.exists(__file__ + '.ok'): raise OSError('no')\ndef f(m): pass",
    )
    fails("eval.py:f", tmp_path)
    write(tmp_path / "eval.py.ok", "")
    assert callable(load_function("eval.py:f", tmp_path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f = 3", "is of type int, not a function"),
        ("def f(): pass", "must be callable with one argument, the model, but its signature is ()"),
        ("def f(model, data): pass", "signature is (model, data) (missing a required argument: 'data')"),
        ("def f(*, model): pass", "must be callable with one argument"),
        ("def f(model): yield 1", "contains `yield`; it must `return` its metric"),
        ("async def f(model): pass", "is an `async def`"),
    ],
)
def test_a_function_that_cannot_be_called_with_a_model_is_refused(tmp_path, text, expected):
    write(tmp_path / "eval.py", text)
    assert expected in fails("eval.py:f", tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "def f(model, batch=8): pass",
        "def f(*args, **kw): pass",
        "class C:\n  def __call__(self, m): pass\nf = C()",
    ],
)
def test_a_function_that_can_be_called_with_a_model_is_taken(tmp_path, text):
    write(tmp_path / "eval.py", text)
    assert callable(load_function("eval.py:f", tmp_path))


def test_a_loader_may_yield_but_takes_no_argument(tmp_path):
    write(tmp_path / "eval.py", "def good():\n  yield 1\ndef bad(n): pass")
    assert list(load_function("eval.py:good", tmp_path, n_arguments=0)()) == [1]
    assert "must be callable with no argument" in fails("eval.py:bad", tmp_path, n_arguments=0)


def test_builtins_and_partials_are_checked_where_they_tell_their_signature():
    check_callable(print, 1, "f")
    check_callable(dict.fromkeys, 1, "f")
    check_callable(functools.partial(pow, 2), 1, "f")
    with pytest.raises(UserCodeError):
        check_callable(functools.partial(pow, 2, 3, 4), 1, "f")


def test_the_users_last_line_is_named_not_a_librarys(tmp_path):
    write(tmp_path / "eval.py", "import json\n\ndef evaluate(model):\n    return json.loads(model)\n")
    function = load_function("eval.py:evaluate", tmp_path)
    with pytest.raises(ValueError) as caught:
        function("{")
    assert failed_line(caught.value, tmp_path / "eval.py") == "eval.py, line 4"
    assert describe_exception(caught.value, tmp_path / "eval.py").startswith("JSONDecodeError: Expecting")


def test_a_package_installed_below_the_folder_is_not_the_users_code(tmp_path):
    write(tmp_path / "env" / "site-packages" / "installed_x.py", "def call(): raise KeyError('k')")
    write(
        tmp_path / "eval.py",
        "import os, sys\n"
        "sys.path.insert(0, os.path.join(os.path.dirname(__file__), 'env', 'site-packages'))\n"
        "import installed_x\ndef evaluate(model):\n    installed_x.call()",
    )
    with pytest.raises(KeyError) as caught:
        load_function("eval.py:evaluate", tmp_path)(None)
    assert describe_exception(caught.value, tmp_path / "eval.py") == "KeyError: 'k' (eval.py, line 5)"


def test_a_long_message_is_cut():
    assert len(describe_exception(ValueError("x" * 10_000))) < 600


BASE = "def evaluate(model):\n    return 1.0 + model\n"


@pytest.mark.parametrize(
    "same",
    [
        "# note\ndef evaluate(model):\n\n    return (1.0 + model)  # why\n",
        "def evaluate( model ): return 1.0+model",
    ],
)
def test_comments_and_layout_do_not_change_the_digest(same):
    assert files_digest({"eval.py": same.encode()}) == files_digest({"eval.py": BASE.encode()})


@pytest.mark.parametrize(
    "other",
    [
        BASE.replace("1.0", "1"),
        BASE.replace("1.0", "True"),
        BASE.replace("+", "-"),
        BASE + "x = 1\n",
        BASE[:-8] + "modex",
    ],
)
def test_any_change_of_code_changes_the_digest(other):
    assert files_digest({"eval.py": other.encode()}) != files_digest({"eval.py": BASE.encode()})


def test_names_and_bytes_of_other_files_count():
    digests = {
        files_digest(files)
        for files in (
            {"a": b"1"},
            {"a": b"2"},
            {"b": b"1"},
            {"a": b"1", "b": b""},
            {"a.py": b"(1 # x"},
            {"a.py": b"(1"},
        )
    }
    assert len(digests) == 6


def test_digest_is_the_same_wherever_the_folder_lies(tmp_path):
    for folder in ("one", "two"):
        write(tmp_path / folder / "part" / "eval.py", BASE)
    one, two = (code_digest([tmp_path / f / "part" / "eval.py"], tmp_path / f) for f in ("one", "two"))
    assert one == two == files_digest({"part/eval.py": BASE.encode()})


def test_digest_of_this_syntax_stays_as_it_is():
    # a job is resumed under another Python: this constant must hold for all of them
    source = textwrap.dedent('''
        """Doc."""
        import numpy as np
        @decorated
        class A(B, metaclass=M):
            x: int = 1
            async def f(self, a, /, b=2, *c, d, **e) -> None:
                return [i async for i in a if i] or {**e, "k": b"v"} or (yield) or ... or 1j or None
    ''')
    assert files_digest({"eval.py": source.encode()}) == "66f4129915cb573ed2ad83ffbe5c1aee"


@given(st.dictionaries(st.text(min_size=1), st.binary()))
def test_the_order_of_files_does_not_count(files):
    assert files_digest(dict(reversed(files.items()))) == files_digest(files)
