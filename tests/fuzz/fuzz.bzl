"""Fuzzers whose regression corpus runs as an ordinary test."""

def cpr_fuzz_test(name, srcs, corpus, deps):
    """A cc_test that runs FuzzOne on `corpus` and on mutations of it.

    Args:
      name: of the test.
      srcs: what defines FuzzOne.
      corpus: files; every input that once broke something belongs here.
      deps: as everywhere.
    """
    native.cc_test(
        name = name,
        size = "small",
        srcs = srcs,
        args = ["$(locations %s)" % label for label in corpus],
        data = corpus,
        deps = deps + [
            "//tests/fuzz:fuzz_runner",
            "@absl",
        ],
    )
