"""Reading the compiler's text: trips, cycles, collectives, kernels."""

import pytest

from tpu.reading import Reading, read

# What the compiler writes, cut down: a loop of four trips with a matrix product, a kernel, a chain of an
# asynchronous gather written three times and a fused reduce-scatter; outside of it an all-reduce and a copy
# to the host's memory.
TEXT = """HloModule jit_step, is_scheduled=true

%add.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%start.1 (p: bf16[8,128]) -> (bf16[8,128], bf16[16,128]) {
  %p = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %all-gather.1 = bf16[16,128]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=7, replica_groups={{0,1},{2,3}}, frontend_attributes={chain_id="0"}
  ROOT %custom-call.1 = (bf16[8,128], bf16[16,128]) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%done.1 (p.2: bf16[8,128]) -> bf16[16,128] {
  %p.2 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %inner = bf16[16,128]{1,0} add(%p.2, %p.2), backend_config={"estimated_cycles":"999"}
  %all-gather.2 = bf16[16,128]{1,0:T(8,128)(2,1)} all-gather(%p.2), channel_id=7, replica_groups={{0,1},{2,3}}, frontend_attributes={chain_id="0"}
  ROOT %custom-call.2 = bf16[16,128] custom-call(%all-gather.2), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter.1 (q: bf16[64,128]) -> bf16[16,128] {
  %q = bf16[64,128]{1,0} parameter(0)
  ROOT %all-reduce.9 = bf16[64,128]{1,0} all-reduce(%q), channel_id=1, replica_groups=[1,4]<=[4], to_apply=%add.1
}

%body (state: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %state = (s32[]{:T(128)}, bf16[8,128]{1,0}) parameter(0)
  %value = bf16[8,128]{1,0} get-tuple-element(%state), index=1
  %fusion.1 = (bf16[8,128], bf16[16,128]) fusion(%value), kind=kCustom, calls=%start.1, backend_config={"estimated_cycles":"100"}
  %splash_fwd.3 = bf16[8,128]{1,0} custom-call(%value), custom_call_target="tpu_custom_call", backend_config={"estimated_cycles":"0"}
  %fusion.2 = bf16[16,128]{1,0} fusion(%value), kind=kCustom, calls=%done.1, backend_config={"estimated_cycles":"50"}
  %wide = bf16[64,128]{1,0} broadcast(%value), backend_config={"estimated_cycles":"7"}
  %fusion.3 = bf16[16,128]{1,0} fusion(%wide), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %next = (s32[]{:T(128)}, bf16[8,128]{1,0}) tuple(%value, %value)
}

%condition (state.2: (s32[], bf16[8,128])) -> pred[] {
  %state.2 = (s32[]{:T(128)}, bf16[8,128]{1,0}) parameter(0)
  %trips = s32[]{:T(128)} constant(4)
  ROOT %less = pred[]{:T(512)} compare(%trips, %trips), direction=LT
}

ENTRY %main (x: bf16[8,128]) -> f32[256] {
  %x = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %loop = (s32[]{:T(128)}, bf16[8,128]{1,0}) while(%x), condition=%condition, body=%body
  %sums = f32[256]{0:T(256)} convert(%x), backend_config={"estimated_cycles":"3"}
  %copy-start.1 = (bf16[8,128]{1,0:T(8,128)S(5)}, bf16[8,128]{1,0:T(8,128)}, u32[]) copy-start(%x)
  %collective-permute-start.1 = (f32[256]{0}, f32[256]{0}) collective-permute-start(%sums), channel_id=3, source_target_pairs={{0,2},{2,0}}
  ROOT %all-reduce.3 = f32[256]{0:T(256)} all-reduce(%sums), channel_id=2, replica_groups=mesh['a'=2,'b'=2] {'b'}, to_apply=%add.1
}
"""


@pytest.fixture(scope="module")
def reading():
    return read(TEXT)


def test_cycles_count_as_often_as_the_loop_runs_and_fusions_once(reading):
    assert [body.trips for body in reading.bodies] == [1, 4]
    assert reading.bodies[1].cycles == 100 + 50 + 7
    assert reading.cycles == 3 + 4 * 157


def test_kernels_are_counted_by_name(reading):
    assert reading.kernels == {"splash_fwd": 4}


def test_a_chain_is_one_asynchronous_collective(reading):
    (gather,) = [c for c in reading.collectives if c.kind == "all-gather"]
    assert gather.asynchronous
    assert (gather.count, gather.payload, gather.group) == (4, 16 * 128 * 2, (0, 1))
    assert gather.ring_bytes == 16 * 128 * 2 / 2


def test_a_fused_all_reduce_whose_parts_are_kept_is_a_reduce_scatter(reading):
    (scatter,) = [c for c in reading.collectives if c.kind == "reduce-scatter"]
    assert not scatter.asynchronous
    assert scatter.group == (0, 1, 2, 3)
    assert scatter.ring_bytes == 64 * 128 * 2 * 3 / 4


def test_all_reduces_go_round_twice_and_permutes_send_all(reading):
    (reduce,) = [c for c in reading.collectives if c.kind == "all-reduce"]
    assert (reduce.group, reduce.ring_bytes) == ((0, 1), 2 * 1024 / 2)
    (permute,) = [c for c in reading.collectives if c.kind == "collective-permute"]
    assert permute.asynchronous
    assert permute.ring_bytes == 1024
    whole = 4 * (2048 + 12288) + 1024 + 1024
    assert reading.ring_bytes == whole


def test_what_a_sparse_core_sums_beside_the_computing_is_asynchronous():
    summing = (
        "%called (whole: bf16[64,128]) -> bf16[16,128] {\n"
        "  %whole = bf16[64,128]{1,0} parameter(0)\n"
        "  ROOT %reduce-scatter.5 = bf16[16,128]{1,0} reduce-scatter(%whole), channel_id=9, "
        "replica_groups={{0,2},{1,3}}, dimensions={0}, to_apply=%add.1\n}\n\n%body (state"
    )
    start = (
        "  %summed = ((bf16[64,128]{1,0}, token[]), bf16[16,128]{1,0}) call-start(%wide), "
        'async_execution_thread="sparsecore", to_apply=%called\n  %fusion.2 = '
    )
    text = TEXT.replace("%body (state", summing, 1).replace("  %fusion.2 = ", start, 1)
    (scatter,) = [c for c in read(text).collectives if c.group == (0, 2) and c.count == 4]
    assert (scatter.kind, scatter.asynchronous) == ("reduce-scatter", True)
    assert scatter.ring_bytes == 64 * 128 * 2 / 2


def test_what_goes_to_another_slice_is_sent_by_the_host():
    """A share of 64 x 4 x 128 summed over two slices of 16; the receiving half is not counted again."""
    send = (
        "  %send.1 = (f32[64,4,128]{2,1,0:T(4,128)}, u32[], token[]) send(%x, %x), channel_id=4, "
        'is_host_transfer=true, frontend_attributes={_xla_megascale_reduce_operation="SUM",'
        '_xla_megascale_target="{1,2}x{0:15}",_xla_megascale_transfer_type="ALL_REDUCE"}\n'
    )
    text = TEXT.replace("  %copy-start.1", send + send.replace("send", "recv") + "  %copy-start.1")
    (between,) = [c for c in read(text).collectives if c.group == (0, 16)]
    assert (between.kind, between.asynchronous) == ("all-reduce", False)
    assert between.ring_bytes == 64 * 4 * 128 * 4
    (four,) = [
        c
        for c in read(text.replace("{1,2}x", "{1:4}x")).collectives
        if len(c.group) == 4 and c.group[1] == 16
    ]
    assert four.group == (0, 16, 32, 48)


def test_bytes_to_the_host_are_those_of_the_device_side(reading):
    assert reading.host_bytes == 8 * 128 * 2


def test_slices_that_are_copied_to_their_place_with_the_host_are_counted():
    """What a layer keeps there: written a layer at a time into the whole, and read back so."""
    whole, layer = "bf16[4,8,128]{2,1,0:T(8,128)S(5)}", "bf16[1,8,128]{2,1,0:T(8,128)}"
    lines = (
        f"  %kept = (({whole}, {layer}, s32[]), {whole}, u32[]) dynamic-update-slice-start(%x, %x, %x)\n"
        f"  %back = (({whole}, s32[]), {layer}, u32[]) dynamic-slice-start(%x, %x)\n"
    )
    text = TEXT.replace("  %fusion.1 = ", lines + "  %fusion.1 = ", 1)
    assert read(text).host_bytes == (1 + 4 * 2) * 8 * 128 * 2


def test_a_peeled_loop_runs_from_where_its_counter_begins():
    peeled = TEXT.replace(
        "  ROOT %less = pred[]{:T(512)} compare(%trips, %trips)",
        "  %count = s32[]{:T(128)} get-tuple-element(%state.2), index=0\n"
        "  ROOT %less = pred[]{:T(512)} compare(%count, %trips)",
    ).replace(
        "  %loop = (s32[]{:T(128)}, bf16[8,128]{1,0}) while(%x)",
        "  %one = s32[]{:T(128)} constant(1)\n"
        "  %begin = s32[]{:T(128)} copy(%one)\n"
        "  %first = (s32[]{:T(128)}, bf16[8,128]{1,0}) tuple(%begin, %x)\n"
        "  %loop = (s32[]{:T(128)}, bf16[8,128]{1,0}) while(%first)",
    )
    assert [body.trips for body in read(peeled).bodies] == [1, 3]
    whole = peeled.replace("constant(1)", "constant(0)")
    assert [body.trips for body in read(whole).bodies] == [1, 4]


def test_a_reading_survives_json(reading):
    import json

    again = Reading.of(json.loads(json.dumps(reading.plain())))
    assert (again.cycles, again.ring_bytes) == (reading.cycles, reading.ring_bytes)
    assert again.kernels == reading.kernels
    assert again.collectives == reading.collectives


def test_a_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        read("HloModule nothing")


def test_a_brace_in_column_0_closes_nothing():
    text = TEXT.replace("  %sums = ", "  %odd = f32[] constant(0), metadata={\n}\n  %sums = ", 1)
    assert read(text).cycles == 3 + 4 * 157
