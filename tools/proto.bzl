"""C++ from .proto files with the system's protoc (Debian's Bazel has no rules_proto)."""

def cpr_proto_library(name, srcs, deps = [], visibility = None):
    """Generates and compiles `srcs`.

    Args:
      name: the cc_library; includes are "proto/cpr/v1/x.pb.h".
      srcs: .proto files of this package. They import each other by their path from the workspace's root.
      deps: other cpr_proto_library targets.
      visibility: as everywhere.
    """
    outs = [src.replace(".proto", suffix) for src in srcs for suffix in [".pb.h", ".pb.cc"]]
    native.filegroup(name = name + "_srcs", srcs = srcs + [dep + "_srcs" for dep in deps], visibility = visibility)
    native.genrule(
        name = name + "_gen",
        srcs = [name + "_srcs"],
        outs = outs,
        cmd = "protoc -I. --cpp_out=$(GENDIR) " + " ".join(["$(location %s)" % src for src in srcs]),
        tools = srcs,
        message = "protoc",
    )
    native.cc_library(
        name = name,
        srcs = [out for out in outs if out.endswith(".cc")],
        hdrs = [out for out in outs if out.endswith(".h")],
        copts = ["-Wno-error"],
        visibility = visibility,
        deps = deps + ["@protobuf"],
    )
