//! Parts that all commands share: the connection to a node, the failures that they report, lists in parts, uploads of files,
//! new PINs, the end on a full disk.

pub mod client;
mod error;
mod full_output;
pub mod pages;
pub mod pin;
pub mod upload;

pub use client::RemoteNode;
pub use error::CliError;
pub use full_output::end_on_full_output;
