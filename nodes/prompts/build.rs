//! Rebuilds the crate when an embedded sound changes.

fn main() {
    println!("cargo::rerun-if-changed=sounds");
}
