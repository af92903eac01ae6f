//! Commands of a plan as text, for all duties.

#![allow(dead_code, reason = "each test uses some of them")]

use twinbox_roles_core::Duty;

/// These changes, then every duty is assigned to `node`.
pub fn then_all_to(changes: &[&str], node: &str) -> Vec<String> {
    let assigned = Duty::ALL.into_iter().map(|duty| format!("{duty} to {node}"));
    changes.iter().map(ToString::to_string).chain(assigned).collect()
}

/// The text by which a plan drains a duty of `a`, whose epochs count from 2 in the order of the duties.
pub fn drain_of(duty: Duty) -> String {
    let place = Duty::ALL.into_iter().position(|other| other == duty).expect("a duty");
    format!("drain {duty} of 0.{}@a", 2 + place)
}

/// These changes, then every duty of `a` drains.
pub fn then_drains(changes: &[&str]) -> Vec<String> {
    changes.iter().map(ToString::to_string).chain(Duty::ALL.map(drain_of)).collect()
}
