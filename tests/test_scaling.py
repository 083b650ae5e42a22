"""What a compiled step sends, read from its text, and the seconds predicted from it."""

import pytest

from benchmarks import scaling

MACHINE = scaling.Machine(
  flops=1e12, island=4, link=100.0, network=10.0, latency=0.5, network_latency=2.0, trees=False
)  # numbers to reckon with by hand


def test_bytes_of_collectives_by_kind():
  text = """
  %all-reduce.1 = (f32[3,4]{1,0}, bf16[10]{0}) all-reduce(%a, %b), to_apply=%add
  ROOT %all-reduce.2 = f32[] all-reduce(%c), to_apply=%add
  %long = (f32[2]{0}, /*index=1*/pred[3]{0:T(8,128)}) all-reduce(%d, /*index=1*/%e), to_apply=%or
  %g = u8[4,2]{1,0} all-gather(%f), dimensions={0}
  %x = f32[9]{0} add(%all-reduce.1, %g)
  """
  assert scaling.collectives(text) == {"all-reduce": [48 + 20, 4, 8 + 3], "all-gather": [8]}


def test_collectives_in_two_halves_count_once():
  text = """
  %s = (f32[3]{0}, f32[3]{0}) all-reduce-start(%a, %b), to_apply=%add
  %d = (f32[3]{0}, f32[3]{0}) all-reduce-done(%s)
  %s2 = (f32[2]{0}, f32[8]{0}) all-gather-start(%a), dimensions={0}
  %d2 = f32[8]{0} all-gather-done(%s2)
  """
  assert scaling.collectives(text) == {"all-reduce": [24], "all-gather": [32]}


def test_ring_by_hand():
  assert scaling.ring(1, 100, 50, 1) == 0
  assert scaling.ring(2, 100, 50, 1) == 2 + 2  # each half once there and back, two hops
  assert scaling.ring(8, 100, 50, 1) == 1.75 * 2 + 14


def test_islands_send_each_device_s_share():
  assert scaling.all_reduce(MACHINE, 4, 400) == scaling.ring(4, 400, 100, 0.5) == 6 + 3
  assert scaling.all_reduce(MACHINE, 8, 400) == 9 + scaling.ring(2, 100, 10, 2) == 9 + 10 + 4


def test_a_tree_by_hand_and_where_it_is_faster():
  assert scaling.tree(1, 100, 50, 1) == scaling.tree(8, 0, 50, 1) == 0
  assert scaling.tree(8, 100, 50, 1) == 2 * 2 + 2 * 3  # all up and down, three hops each way
  trees = MACHINE._replace(trees=True)
  assert scaling.all_reduce(trees, 4, 4) == min(0.06 + 3, 0.08 + 2)  # few bytes: hops count
  assert scaling.all_reduce(trees, 4, 400) == min(6 + 3, 8 + 2)  # many: bytes do


def test_efficiencies_by_hand():
  """Buckets of 4 MiB, at a rate where one takes 2 seconds on two devices; a hop takes half a second."""
  machine = MACHINE._replace(link=scaling.BUCKET / 2)
  gradients = 2 * scaling.BUCKET + scaling.BUCKET // 2
  lower, buckets, upper = scaling.efficiencies(machine, 2, 6.0, gradients, [8, 8])
  small = scaling.all_reduce(machine, 2, 8)
  assert small == pytest.approx(1, abs=1e-4)
  assert lower == pytest.approx(6 / (6 + 2 * small + 5 + 1))
  assert buckets == pytest.approx(6 / (6 + 2 * small + (3 + 3 + 2) - 4))  # a third of the step hides nothing
  assert upper == pytest.approx(6 / (5 + 1), abs=1e-4)
  slow = scaling.efficiencies(machine, 2, 60.0, gradients, [])
  assert slow == pytest.approx([60 / 66, 60 / 62, 1])  # the last bucket waits


def test_efficiency_is_whole_where_there_is_one_device():
  assert scaling.efficiencies(MACHINE, 1, 3.0, 400, [8]) == [1, 1, 1]


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_step_sends_gradients_and_sums_whatever_the_number_of_devices(norm):
  step, init = scaling.make_step(f"unet/{norm}", 16, width=2, depth=1)
  found = []
  for devices in (2, 4):
    compiled = scaling.lower(step, init, 16, devices, 2).compile(compiler_options=scaling.FAST_COMPILE)
    found.append(scaling.collectives(compiled.as_text()))
  params, statistics = scaling.expected_bytes(init)
  assert found[0] == found[1] and set(found[0]) == {"all-reduce"}
  sizes = found[0]["all-reduce"]
  assert params > 0 and 0 <= sum(sizes) - params - statistics <= 64
  if norm == "group":  # the gradients, the sums of the loss before them, and its value
    assert statistics == 0 and len(sizes) <= 3 and max(sizes) >= params
