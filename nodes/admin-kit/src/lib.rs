//! Parts that the services for administrators share: lists in parts, names, the way to the holder of a duty.

pub mod holder;
pub mod named;
mod part;

pub use part::{Part, part, part_of_sorted};
