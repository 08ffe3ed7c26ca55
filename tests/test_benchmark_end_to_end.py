"""The benchmark of whole jobs also runs at the smallest size, so that it never rots."""

from benchmarks.end_to_end import main


def test_every_job_of_the_tiny_run_has_figures_for_each_program():
    found = main(["--tiny", "--programs", "marey", "pyav"])
    assert {name: set(costs) for name, costs in found.items()} == {
        **{name: {"marey", "pyav"} for name in ("simclr", "simclr x8", "order", "embed")},
        "mine": {"marey"},
    }
    for costs in found.values():
        for cost in costs.values():
            assert cost.samples > 0
            assert cost.peak_mib > 100
