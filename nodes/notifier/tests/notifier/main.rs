//! Tests of the public interface.

mod duty;
mod mwi_queue;
