"""The system libraries of the project: the one place that declares them.

name -> the pkg-config modules that make it up, and the Debian package that has them.
tools/prereqs.txt lists the packages for tools/prereqs to install; tools/prereqs_test holds the two lists together.
"""

_ABSL = "libabsl-dev"

SYSTEM_LIBRARIES = {
    "absl": {
        "apt": _ABSL,
        "modules": [
            "absl_cleanup",
            "absl_flat_hash_map",
            "absl_span",
            "absl_status",
            "absl_statusor",
            "absl_str_format",
            "absl_strings",
            "absl_synchronization",
            "absl_time",
        ],
    },
    "benchmark": {"apt": "libbenchmark-dev", "modules": ["benchmark"]},
    "editline": {"apt": "libedit-dev", "modules": ["libedit"]},
    "googletest": {"apt": "libgmock-dev", "modules": ["gmock", "gtest"]},
    "protobuf": {"apt": "libprotobuf-dev", "modules": ["protobuf"]},
    "seccomp": {"apt": "libseccomp-dev", "modules": ["libseccomp"]},
}
