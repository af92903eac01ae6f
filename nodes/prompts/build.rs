//! The sounds are compiled in; a new one among them is a reason to compile again.

fn main() {
    println!("cargo::rerun-if-changed=sounds");
}
