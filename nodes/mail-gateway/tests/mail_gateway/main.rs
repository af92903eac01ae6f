//! Tests of the public interface.

mod common;
mod filing;
mod session;
mod tcp;
