"""The compiler's text, taken apart."""

import pytest

from tpu.hlo import group_of, num_bytes, parse


def test_computations_by_name_and_the_one_it_begins_with():
    text = """HloModule two

%inner (a: f32[2]) -> f32[2] {
  ROOT %twice = f32[2]{0:T(128)} add(%a, %a), metadata={
}
}

ENTRY %main (x: f32[2]) -> (f32[2], s32[]) {
  %x = f32[2]{0} parameter(0)
  ROOT %both = (f32[2]{0:T(128)}, s32[]) tuple(f32[2]{0:T(128)} %x, s32[] %n), sharding={replicated}
}
"""
    computations, entry = parse(text)
    assert entry == "main"
    assert [(i.name, i.op) for i in computations["inner"]] == [("twice", "add")]
    both = computations["main"][1]
    assert (both.op, both.shape) == ("tuple", "(f32[2]{0:T(128)}, s32[])")
    assert (both.operands, both.root) == (["x", "n"], True)


def test_bytes_of_a_shape_are_those_of_all_its_parts():
    assert num_bytes("(bf16[2,3]{1,0}, f32[]{:T(128)}, s4[4])") == 12 + 4 + 2


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("replica_groups={{0,4,8},{1,5,9}}", (0, 4, 8)),
        ("replica_groups=[2,3]<=[6]", (0, 1, 2)),
        ("replica_groups=[3,2]<=[2,3]T(1,0)", (0, 3)),
        ("replica_groups=mesh['x'=2,'y'=3] {'x'}", (0, 3)),
        ("replica_groups=mesh['x'=2,'y'=3]", (0, 1, 2, 3, 4, 5)),
        ("source_target_pairs={{3,5},{5,3}}", (3, 5)),
        ("no groups", ()),
    ],
)
def test_groups_in_every_form(text, group):
    assert group_of(text) == group
