from onnx import TensorProto, helper

from disttune.quantize.statistics.segments import cut

KB = 1000


def chain(n: int) -> list:
    """Nodes n0 ... that make t0 ... of what the node before makes; the first one reads x."""
    return [helper.make_node("Neg", [f"t{i - 1}" if i else "x"], [f"t{i}"], f"n{i}") for i in range(n)]


def cut_at(
    nodes: list, wanted: set[str], budget_kb: float, types: dict[str, int] | None = None
) -> list[list[str]]:
    """Names of the nodes of each segment; every tensor takes 1 kB."""
    made = [name for node in nodes for name in node.output]
    graph = helper.make_graph(nodes, "g", [], [])
    floats = dict.fromkeys(made, TensorProto.FLOAT) if types is None else types
    segments = cut(graph, wanted, floats, dict.fromkeys(made, KB), int(budget_kb * KB))
    return [[node.name for node in segment.nodes] for segment in segments]


def test_what_fits_stays_in_one_piece():
    assert cut_at(chain(3), {"t0", "t1", "t2"}, 3) == [["n0", "n1", "n2"]]


def test_a_cut_keeps_wanted_and_crossing_tensors_within_the_budget():
    wanted = {f"t{i}" for i in range(5)}
    assert cut_at(chain(5), wanted, 3) == [["n0", "n1", "n2"], ["n3", "n4"]]
    assert cut_at(chain(5), wanted, 0) == [["n0"], ["n1"], ["n2"], ["n3"], ["n4"]]


def test_a_tensor_kept_for_later_takes_room_in_every_segment_before_its_reader():
    nodes = [*chain(4), helper.make_node("Add", ["t3", "t0"], ["t4"], "n4")]
    wanted = {f"t{i}" for i in range(5)}
    assert cut_at(nodes, wanted, 3) == [["n0", "n1", "n2"], ["n3"], ["n4"]]


def test_tensors_that_nobody_wants_take_room_where_they_cross():
    assert cut_at(chain(6), {"t5"}, 1) == [[f"n{i}" for i in range(6)]]


def test_nodes_that_no_wanted_tensor_needs_are_left_out():
    nodes = [*chain(3), helper.make_node("Neg", ["t0"], ["other"], "not needed")]
    assert cut_at(nodes, {"t1"}, 9) == [["n0", "n1"]]
    assert cut_at(nodes, set(), 9) == []


def test_no_cut_is_made_where_a_value_of_another_type_crosses():
    types = {"t0": TensorProto.FLOAT, "t1": TensorProto.STRING, "t3": TensorProto.INT64}  # t2 has none
    wanted = {"t0", "t1", "t2", "t3", "t4"}
    assert cut_at(chain(5), wanted, 0, types) == [["n0"], ["n1", "n2", "n3"], ["n4"]]


def test_a_segment_knows_what_it_reads_gives_and_leaves_for_later():
    nodes = [*chain(3), helper.make_node("Add", ["t2", "t0"], ["t3"], "n3")]
    sizes = dict.fromkeys(["t0", "t1", "t2", "t3"], KB)
    graph = helper.make_graph(nodes, "g", [], [])
    first, *_, last = cut(graph, {"t1", "t3"}, dict.fromkeys(sizes, TensorProto.FLOAT), sizes, 0)
    assert (first.inputs, first.outputs, first.kept) == (("x",), ("t0",), frozenset({"t0"}))
    assert (set(last.inputs), last.outputs, last.kept) == ({"t0", "t2"}, ("t3",), frozenset())
