//! Lets the binary depend on nothing but libc: on glibc targets the unwinder is linked from the compiler's static library.
//!
//! The standard library asks for the shared `gcc_s`, and `-static-libgcc` does not change that. A linker script of that
//! name, found first, answers with the static `gcc_eh`.

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |name: &str| env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") != "linux" || target("ENV") != "gnu" {
        return Ok(());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    fs::write(out.join("libgcc_s.so"), "INPUT(-lgcc_eh -lgcc)\n")?;
    println!("cargo::rustc-link-search=native={}", out.display());
    Ok(())
}
