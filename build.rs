//! Lets the binary depend on nothing but libc: on glibc targets the unwinder is linked from the compiler's static library.
//! And tells the binary what it is built from.
//!
//! The standard library asks for the shared `gcc_s`, and `-static-libgcc` does not change that. A linker script of that
//! name, found first, answers with the static `gcc_eh`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    provenance();
    let target = |name: &str| env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") != "linux" || target("ENV") != "gnu" {
        return Ok(());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    fs::write(out.join("libgcc_s.so"), "INPUT(-lgcc_eh -lgcc)\n")?;
    println!("cargo::rustc-link-search=native={}", out.display());
    Ok(())
}

/// The compiler and the commit, or `unknown`. Who builds without the repository gives `IMAGESET_MIRROR_REVISION`.
fn provenance() {
    const REVISION: &str = "IMAGESET_MIRROR_REVISION";
    println!("cargo::rerun-if-env-changed={REVISION}");
    let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let rustc = first_line(Command::new(compiler).arg("-V"));
    println!("cargo::rustc-env=IMAGESET_MIRROR_RUSTC={}", rustc.as_deref().unwrap_or("unknown"));
    let given = env::var(REVISION).ok().filter(|revision| !revision.is_empty());
    let revision = given.or_else(revision);
    println!("cargo::rustc-env={REVISION}={}", revision.as_deref().unwrap_or("unknown"));
}

/// The commit of our own repository; one that we merely lie in says nothing.
fn revision() -> Option<String> {
    let own = Path::new(&env::var_os("CARGO_MANIFEST_DIR")?).to_owned();
    let git = |args: &[&str]| first_line(Command::new("git").arg("-C").arg(&own).args(args));
    if fs::canonicalize(git(&["rev-parse", "--show-toplevel"])?).ok()? != fs::canonicalize(&own).ok()? {
        return None;
    }
    // Grows with each commit and each change of branch.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={}", own.join(log).display());
    }
    git(&["rev-parse", "HEAD"])
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}
