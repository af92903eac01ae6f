//! Tests of the public interface.

mod common;
mod g726;
mod resample;
mod signals;
mod upload;
