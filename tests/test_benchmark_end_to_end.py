"""The benchmark of whole jobs also runs at the smallest size, so that it never rots."""

from benchmarks.end_to_end import main


def test_a_tiny_run_has_figures_for_each_job_and_program():
    found = main(["--tiny", "--jobs", "simclr", "embed", "mine", "--programs", "marey", "pyav"])
    both = {"marey", "pyav"}
    assert {name: set(costs) for name, costs in found.items()} == {
        "simclr": both, "embed": both, "mine": {"marey"},
    }  # fmt: skip
    for costs in found.values():
        for cost in costs.values():
            assert cost.samples > 0
            assert cost.cpu_s > 0
            assert cost.peak_mib > 100
