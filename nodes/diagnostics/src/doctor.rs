//! Checks of `twinbox doctor`: [`observe`] and [`probe`] collect what a member's machine and its peers show, and
//! [`findings`] derives faults with their remedies.

pub mod findings;
pub mod mail;
pub mod observe;
pub mod probe;
