//! Parts of each figure of `twinbox-bench`: the machine, processor time by thread, tables.

pub mod machine;
pub mod report;
pub mod threads;
