"""What a CSV file looks like is found out from its beginning."""

import pytest

from hpcml.data.layout import find_layout
from hpcml.data.table import DataError, Options, Schema


@pytest.fixture
def layout(tmp_path):
    def find(text, trained=None, **options):
        path = tmp_path / "data.csv"
        path.write_bytes(text.encode())
        return find_layout(str(path), Options(**options), trained)

    return find


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_delimiter_is_the_one_by_which_lines_agree(layout, delimiter):
    found = layout(delimiter.join(["1", '"a, b; c\td"', "3"]) + "\n" + delimiter.join(["4", "e", "6"]) + "\n")
    assert (found.delimiter, found.width) == (delimiter, 3)


def test_decimal_commas_do_not_pass_for_a_delimiter_when_told(layout):
    assert layout("a b|c,d|1\n", delimiter="|").width == 3


@pytest.mark.parametrize(
    "text, named",
    [
        ("a,b,y\n1,2,x\n3,4,z\n", True),
        ("1,2,x\n3,4,z\n", False),
        ("red,round,x\nblue,square,z\n", False),  # strings all through: no line stands out
        ("a,a,y\n1,2,x\n", False),  # columns cannot share a name
        ('"sepal length","petal, width",y\n1,2,x\n', True),
    ],
)
def test_header_is_words_above_numbers(layout, text, named):
    assert layout(text).schema.named == named


def test_header_of_a_file_of_strings_is_known_by_the_target(layout):
    found = layout("colour,shape,kind\nred,round,x\nblue,square,z\n", target="kind")
    assert found.schema.named and found.target == 2
    assert found.begin == len("colour,shape,kind\n")


def test_header_may_be_told(layout):
    assert layout("red,round\nblue,square\n", header="yes").names == ("red", "round")
    assert layout("a,b\n1,x\n", header="no").names == ("column 0", "column 1")


def test_byte_order_mark_and_blank_lines_before_the_header(layout):
    found = layout("\ufeff\na,b\n1,x\n")
    assert found.names == ("a", "b")
    assert found.begin == len("\ufeff\na,b\n".encode())


@pytest.mark.parametrize("target, position", [(None, 2), ("0", 0), ("-2", 1), ("b", 1)])
def test_target_by_name_or_number(layout, target, position):
    found = layout("a,b,c\n1,2,3\n", target=target)
    assert found.target == position
    assert found.fields == tuple(i for i in range(3) if i != position)


def test_kinds_of_columns(layout):
    found = layout("n,mixed,s,gone,id,y\n1,2,red,?,7,0\n2,3,?,,8,1\n3,oops,blue,,9,0\n", categorical=("id",))
    words = {column.name: column.words for column in found.schema.columns}
    # Mostly numbers: a column of numbers, in which "oops" will be an error. Nothing but missing values:
    # strings.
    assert words == {"n": False, "mixed": False, "s": True, "gone": True, "id": True}


def test_dropped_columns_are_no_features(layout):
    found = layout("id,a,b,y\n1,2,3,0\n", drop=("id", "2"))
    assert [column.name for column in found.schema.columns] == ["a"]
    assert found.fields == (1,)


@pytest.mark.parametrize(
    "text, options, message",
    [
        ("a,b\n1,2\n", {"target": "c"}, "no target column 'c'; the file has the columns a, b"),
        ("1,2\n3,4\n", {"target": "2"}, r"no target column '2'; .* 0 to 1 \(there is no header\)"),
        ("a,b\n1,2\n", {"drop": ("z",)}, "no dropped column 'z'"),
        ("a\n1\n", {}, "no feature column is left"),
        ("\n  \n", {}, "empty"),
    ],
)
def test_errors_tell_what_is_there(layout, text, options, message):
    with pytest.raises(DataError, match=message):
        layout(text, **options)


def test_text_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "latin").write_bytes("größe,y\n1,2\n".encode("latin-1"))
    with pytest.raises(DataError, match="byte 2 is not UTF-8"):
        find_layout(str(tmp_path / "latin"), Options())


def test_prediction_finds_the_columns_by_name_in_any_order(layout):
    trained = layout("a,b,y\n1,red,0\n").schema
    found = layout("y,extra,b,a\n0,9,blue,3\n", trained)
    assert (found.fields, found.target) == ((3, 2), 0)
    assert found.schema == trained
    assert layout("b,a\nblue,3\n", trained).target is None
    with pytest.raises(DataError, match="absent here: b;"):
        layout("a,c,y\n1,2,0\n", trained)


def test_prediction_without_names_goes_by_position(layout):
    trained = layout("0,1,red\n1,2,blue\n", target="0").schema
    assert layout("1,5,red\n", trained).target == 0
    assert layout("5,red\n", trained).target is None
    assert layout("5,red,1\n", trained, target="-1").fields == (0, 1)
    with pytest.raises(DataError, match="found 4 columns; the model expects 2 features, 3 columns with"):
        layout("5,6,7,8\n", trained)


def test_prediction_drops_the_columns_that_training_dropped(layout):
    trained = layout("7,0,1,red\n8,1,2,blue\n", target="1", drop=("0",)).schema
    like_training = layout("9,1,5,red\n", trained)
    assert (like_training.fields, like_training.target) == ((2, 3), 1)
    without_label = layout("9,5,red\n", trained)
    assert (without_label.fields, without_label.target) == ((1, 2), None)
    features_alone = layout("5,red\n", trained)
    assert (features_alone.fields, features_alone.target) == ((0, 1), None)


def test_schema_survives_json(layout):
    schema = layout("a,b,y\n1,red,0\n").schema
    assert Schema.from_json(schema.as_json()) == schema
