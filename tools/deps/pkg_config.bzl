"""System libraries by pkg-config.

A library that is missing does not break loading: the repository still holds a valid package whose only target
fails when something that depends on it is built, and prints what to install.
"""

def _query(ctx, flags, modules):
    result = ctx.execute([ctx.which("pkg-config")] + flags + modules)
    if result.return_code != 0:
        return None, (result.stderr or result.stdout).strip()
    return [word for word in result.stdout.replace("\n", " ").split(" ") if word], None

def _strings(words):
    return "[%s]" % ", ".join(['"%s"' % word for word in words])

def _missing(ctx, why):
    ctx.file("error.log", "system library @%s: %s\ninstall it with: apt-get install %s\n" % (ctx.name, why, ctx.attr.apt))
    ctx.file(
        "BUILD.bazel",
        """genrule(name = "fail", srcs = ["error.log"], outs = ["error.h"], cmd = "cat $< >&2; false")
cc_library(name = "{0}", hdrs = [":error.h"], visibility = ["//visibility:public"])
""".format(ctx.name),
    )

def _pkg_config_repository_impl(ctx):
    if not ctx.which("pkg-config"):
        _missing(ctx, "pkg-config is not installed (apt-get install pkg-config)")
        return
    cflags, error = _query(ctx, ["--cflags"], ctx.attr.modules)
    if error == None:
        # --static names the private dependencies too, which a -static link needs and a shared one does not mind.
        libs, error = _query(ctx, ["--libs", "--static"], ctx.attr.modules)
    if error != None:
        _missing(ctx, error)
        return

    defines = [flag[2:] for flag in cflags if flag.startswith("-D")]
    copts = [flag for flag in cflags if not flag.startswith("-D")]
    ctx.file(
        "BUILD.bazel",
        """cc_library(name = "{name}", copts = {copts}, defines = {defines}, linkopts = {libs}, visibility = ["//visibility:public"])
""".format(name = ctx.name, copts = _strings(copts), defines = _strings(defines), libs = _strings(libs)),
    )

pkg_config_repository = repository_rule(
    implementation = _pkg_config_repository_impl,
    attrs = {
        "apt": attr.string(mandatory = True, doc = "the Debian package to name when the library is missing"),
        "modules": attr.string_list(mandatory = True),
    },
    environ = ["PATH", "PKG_CONFIG_PATH"],
    local = True,
)
