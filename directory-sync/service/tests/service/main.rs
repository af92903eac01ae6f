//! Tests of the public interface.

mod guard;
mod hostile;
mod referrals;
mod slapd;
