//! Tests of the public interface.

mod redirect;
mod strict;
mod transaction;
mod values;
