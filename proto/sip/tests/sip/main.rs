//! Tests of the public interface.

mod mwi;
mod redirect;
mod registration;
mod strict;
mod transaction;
mod values;
