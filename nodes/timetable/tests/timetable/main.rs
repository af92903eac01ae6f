//! Tests of the public interface.

mod clock_changes;
mod day;
mod decide;
mod records;
