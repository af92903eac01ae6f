//! Tests of the public interface.

mod devices;
mod duty;
mod mwi_queue;
mod repeats;
